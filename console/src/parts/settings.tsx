/** Changes the settings of a job: how fast and when devices start, when the next stage opens, when it stops. */

import { useState } from "preact/hooks";
import { changeSettings, type Changes } from "../actions";
import type { ApiError, Job } from "../api/client";
import { serverNow } from "../clock";
import { copyOf, DraftError, draftSettings, type Draft } from "../draft";
import { HOUR_MS } from "../format";
import { isActive } from "../words";
import { CriterionFields } from "./criterion-fields";
import type { Question } from "./dialog";
import { bind, Lines, Text } from "./fields";
import { problemsOf } from "../problems";
import { StageFields } from "./stage-fields";
import { TimingFields } from "./timing-fields";

interface Props {
    job: Job;
    ask: (question: Question) => void;
    done: () => Promise<void>;
}

export function Settings({ job, ask, done }: Props) {
    // A change by another does not change what the person is typing: the service compares the etag.
    const [start, setStart] = useState(job);
    const [draft, setDraft] = useState(() => copyOf(job));
    const set = (changes: Partial<Draft>) => setDraft({ ...draft, ...changes });
    const changes = changesOf(draft, start);
    const problem = changes instanceof DraftError ? changes.message : "";
    const problems = problemsOf(changes instanceof DraftError ? changes : null, draft);
    const field = bind(draft, set, problems);
    const hasChanges = !(changes instanceof DraftError) && changes.mask.length > 0;
    const reset = () => {
        setStart(job);
        setDraft(copyOf(job));
    };
    const save = () => {
        if (changes instanceof DraftError) return;
        const explain = (error: ApiError) => Object.values(problemsOf(error, draft));
        ask({ ...changeSettings(start, changes, done), explain });
    };
    const isOutdated = job.etag !== start.etag;
    const stages = start.stages ?? [];
    const passed = stages.filter((stage) => stage.state === "PASSED").length;
    return (
        <form
            onSubmit={(event) => {
                event.preventDefault();
                save();
            }}
        >
            <div class="fields">
                <Text {...field("description", "Description")} maxLength={1000} />
                <Lines {...field("labels", "Labels, one per line", "such as release=2.1")} />
                {isActive(start) && (
                    <Text {...field("expiresHours", "Expires in (hours from now)", "unchanged")} numeric />
                )}
                {isActive(start) && start.rollout && (
                    <Text {...field("maxInProgress", "Maximum devices in progress", "no limit")} numeric />
                )}
            </div>
            {isActive(start) && (
                <>
                    {stages.length > 0 && (
                        <>
                            <h3 class="pad">Stages that have not passed</h3>
                            <StageFields
                                stages={draft.stages}
                                sizes={stages.map((stage) => stage.total_executions)}
                                set={(list) => set({ stages: list })}
                                problems={problems}
                                passed={passed}
                            />
                        </>
                    )}
                    <h3 class="pad">Failure criteria: when to pause or cancel</h3>
                    <CriterionFields
                        criteria={draft.criteria}
                        set={(criteria) => set({ criteria })}
                        problems={problems}
                    />
                    <h3 class="pad">When to start, retries, timeouts</h3>
                    <TimingFields draft={draft} set={set} problems={problems} />
                </>
            )}
            <div class="buttons pad">
                <button class="primary" disabled={!hasChanges}>
                    Save changes…
                </button>
                {(hasChanges || problem || isOutdated) && (
                    <button type="button" onClick={reset}>
                        {isOutdated ? "Load the settings again" : "Discard changes"}
                    </button>
                )}
                <span class="problem" role="status">
                    {problem || (isOutdated && "The job has changed since this form was opened.")}
                </span>
            </div>
        </form>
    );
}

function changesOf(draft: Draft, job: Job): Changes | DraftError {
    try {
        return difference(flat(draft), flat(copyOf(job)), draft);
    } catch (error) {
        if (error instanceof DraftError) return error;
        throw error;
    }
}

/** The settings by the paths of UpdateJob. */
function flat(draft: Draft): Record<string, unknown> {
    const { rollout, ...settings } = draftSettings(draft);
    return {
        ...settings,
        "rollout.stages": rollout?.stages,
        "rollout.max_in_progress": rollout?.max_in_progress,
    };
}

function difference(wanted: Record<string, unknown>, now: Record<string, unknown>, draft: Draft): Changes {
    const mask = Object.keys(wanted).filter(
        (key) => JSON.stringify(wanted[key]) !== JSON.stringify(now[key]),
    );
    const fields: Record<string, unknown> & Changes["fields"] = {};
    const rollout: Record<string, unknown> = {};
    for (const path of mask) {
        const value = wanted[path];
        if (path.startsWith("rollout.")) rollout[path.slice("rollout.".length)] = value;
        else fields[path] = value;
    }
    if (Object.keys(rollout).length) fields.rollout = rollout;
    const hours = Number(draft.expiresHours);
    if (draft.expiresHours.trim()) {
        if (!(hours > 0)) throw new DraftError("The expiry must be a number of hours", "expiresHours");
        mask.push("expires_at");
        fields.expires_at = new Date(serverNow() + hours * HOUR_MS).toISOString();
    }
    return { mask, fields };
}
