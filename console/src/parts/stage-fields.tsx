/** The stages of a job that is created or changed. */

import { emptyStage, stageLabel, type StageDraft } from "../draft";
import type { FleetLabels } from "../api/client";
import { counted } from "../format";
import type { Problems } from "../problems";
import { groupSuggestions } from "../suggestions";
import { bind, Check, Select, Text } from "./fields";
import { SelectorField } from "./selector-field";

const kinds: Record<StageDraft["kind"], string> = {
    percent: "percent",
    count: "number",
    group: "group",
    selector: "selector",
    rest: "the rest",
};
const valueLabels = { percent: "Percent", count: "Number", group: "Group", selector: "Selector" };

interface Props {
    stages: StageDraft[];
    sizes: number[];
    set: (stages: StageDraft[]) => void;
    /** What fields of groups and selectors suggest. */
    known?: FleetLabels;
    problems?: Problems;
    /** How many stages have passed, if the job exists: then sizes and approvals stay as they are. */
    passed?: number;
}

export function StageFields({ stages, sizes, set, known, problems, passed }: Props) {
    const isNew = passed === undefined;
    const change = (index: number, changes: Partial<StageDraft>) =>
        set(stages.map((stage, i) => (i === index ? { ...stage, ...changes } : stage)));
    const add = () => {
        const rest: StageDraft = { ...emptyStage, kind: "rest", value: "" };
        set(
            stages.length
                ? [...stages.slice(0, -1), { ...emptyStage, value: "10" }, stages[stages.length - 1] ?? rest]
                : [emptyStage, rest],
        );
    };
    return (
        <>
            {!stages.length && <p class="pad quiet">All devices can start at once.</p>}
            {stages.map((stage, index) => {
                const update = (changes: Partial<StageDraft>) => change(index, changes);
                const field = bind(stage, update, problems, `stages.${index}.`);
                const one = { stage, update, field };
                const label = stageLabel(stage, index);
                if (index < (passed ?? 0)) return null;
                return (
                    <div class="stage" key={index} role="group" aria-label={label}>
                        <span class="stage-number">
                            {label}
                            {sizes[index] !== undefined && (
                                <span class="quiet"> {counted(sizes[index], "device")}</span>
                            )}
                        </span>
                        {isNew && <Text {...field("name", "Name")} placeholder={`stage ${index}`} />}
                        {isNew && <Size {...one} known={known} />}
                        <Text {...field("perMinute", "Starts per minute", "all at once")} numeric />
                        {index < stages.length - 1 && <Gate {...one} isNew={isNew} />}
                        {isNew && (
                            <button
                                type="button"
                                class="small"
                                aria-label={`Remove ${label}`}
                                onClick={() => set(stages.filter((_, i) => i !== index))}
                            >
                                Remove
                            </button>
                        )}
                    </div>
                );
            })}
            {isNew && (
                <div class="pad">
                    <button type="button" onClick={add}>
                        Add stage
                    </button>
                </div>
            )}
        </>
    );
}

interface One {
    stage: StageDraft;
    update: (changes: Partial<StageDraft>) => void;
    field: ReturnType<typeof bind<StageDraft>>;
}

function Size({ stage, update, field, known }: One & { known: FleetLabels | undefined }) {
    return (
        <>
            <Select
                label="Devices"
                value={stage.kind}
                set={(kind) => update({ kind, value: "" })}
                options={kinds}
            />
            {stage.kind === "selector" && (
                <SelectorField {...field("value", valueLabels.selector)} known={known} />
            )}
            {stage.kind !== "rest" && stage.kind !== "selector" && (
                <Text
                    {...field("value", valueLabels[stage.kind])}
                    numeric={stage.kind === "percent" || stage.kind === "count"}
                    suggestions={stage.kind === "group" ? groupSuggestions(known) : undefined}
                />
            )}
        </>
    );
}

/** What opens the next stage. */
function Gate({ stage, update, field, isNew }: One & { isNew: boolean }) {
    return (
        <fieldset>
            <legend>When the next stage opens</legend>
            <div class="fields">
                <Text
                    {...field("succeeded", "Succeeded, at least (%)", "all finished, in any status")}
                    numeric
                />
                <Text {...field("bakeMinutes", "Then wait (minutes)", "no wait")} numeric />
                <Text
                    {...field("latestHours", "Open anyway after (hours since this stage opened)", "never")}
                    numeric
                />
                {isNew && (
                    <Check
                        label="An approval is required"
                        checked={stage.approval}
                        set={(approval) => update({ approval })}
                    />
                )}
            </div>
        </fieldset>
    );
}
