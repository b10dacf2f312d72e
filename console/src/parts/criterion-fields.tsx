/** The failure criteria of a job that is created or changed. */

import { emptyCriterion, type CriterionDraft } from "../draft";
import { Select, Text } from "./fields";

export function CriterionFields(props: {
    criteria: CriterionDraft[];
    set: (criteria: CriterionDraft[]) => void;
}) {
    const { criteria, set } = props;
    const change = (index: number, changes: Partial<CriterionDraft>) =>
        set(criteria.map((c, i) => (i === index ? { ...c, ...changes } : c)));
    return (
        <>
            {!criteria.length && <p class="pad quiet">Failures do not stop the job.</p>}
            {criteria.map((c, index) => (
                <div class="stage" key={index} role="group" aria-label={`Criterion ${index + 1}`}>
                    <Text
                        label="Threshold"
                        value={c.value}
                        set={(value) => change(index, { value })}
                        numeric
                    />
                    <Select
                        label="Unit"
                        value={c.kind}
                        set={(kind) => change(index, { kind })}
                        options={{ percent: "percent", count: "devices" }}
                    />
                    <Select
                        label="Count the failures of"
                        value={c.scope}
                        set={(scope) => change(index, { scope })}
                        options={{ JOB: "the whole job", STAGE: "each stage" }}
                    />
                    <Text
                        label="Only these failure codes"
                        value={c.codes}
                        set={(codes) => change(index, { codes })}
                        placeholder="any failure"
                    />
                    {c.kind === "percent" && (
                        <Text
                            label="Not before this many devices finished"
                            value={c.minFinished}
                            set={(minFinished) => change(index, { minFinished })}
                            numeric
                        />
                    )}
                    <Select
                        label="Action"
                        value={c.action}
                        set={(action) => change(index, { action })}
                        options={{
                            PAUSE: "pause",
                            CANCEL: "cancel",
                            FORCE_CANCEL: "cancel, including devices in progress",
                        }}
                    />
                    <button
                        type="button"
                        class="small"
                        aria-label={`Remove criterion ${index + 1}`}
                        onClick={() => set(criteria.filter((_, i) => i !== index))}
                    >
                        Remove
                    </button>
                </div>
            ))}
            <div class="pad">
                <button type="button" onClick={() => set([...criteria, emptyCriterion])}>
                    Add criterion
                </button>
            </div>
        </>
    );
}
