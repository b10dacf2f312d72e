/** The failure criteria of a job that is created or changed. */

import { emptyCriterion, type CriterionDraft } from "../draft";
import type { Problems } from "../problems";
import { bind, Select, Text } from "./fields";

export function CriterionFields(props: {
    criteria: CriterionDraft[];
    set: (criteria: CriterionDraft[]) => void;
    problems?: Problems;
}) {
    const { criteria, set, problems } = props;
    const change = (index: number, changes: Partial<CriterionDraft>) =>
        set(criteria.map((c, i) => (i === index ? { ...c, ...changes } : c)));
    return (
        <>
            {!criteria.length && <p class="pad quiet">Failures do not stop the job.</p>}
            {criteria.map((c, index) => {
                const field = bind(c, (changes) => change(index, changes), problems, `criteria.${index}.`);
                return (
                    <div class="stage" key={index} role="group" aria-label={`Criterion ${index + 1}`}>
                        <Text {...field("value", "Threshold")} numeric />
                        <Select
                            {...field("kind", "Unit")}
                            options={{ percent: "percent", count: "devices" }}
                        />
                        <Select
                            {...field("scope", "Count the failures of")}
                            options={{ JOB: "the whole job", STAGE: "each stage" }}
                        />
                        <Text {...field("codes", "Only these failure codes", "any failure")} />
                        {c.kind === "percent" && (
                            <Text
                                {...field("minFinished", "Not before this many devices finished")}
                                numeric
                            />
                        )}
                        <Select
                            {...field("action", "Action")}
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
                );
            })}
            <div class="pad">
                <button type="button" onClick={() => set([...criteria, emptyCriterion])}>
                    Add criterion
                </button>
            </div>
        </>
    );
}
