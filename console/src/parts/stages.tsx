/** The stages of a rollout: size, state, progress, and what opens the next one. */

import type { Job } from "../api/client";
import { serverNow } from "../clock";
import { count, counted } from "../format";
import { gateState, rate, stageDevices, stageState } from "../gates";
import { jobPath, search } from "../query";
import { failedStatuses, failures, stageName } from "../words";
import { Bar } from "./bar";
import { showDetails } from "./details";

export function Stages({ job }: { job: Job }) {
    const stages = job.stages ?? [];
    if (!stages.length) return null;
    return (
        <section class="card" aria-labelledby="stages">
            <h2>
                <span id="stages">Stages</span>
                {job.rollout?.max_in_progress && (
                    <span class="quiet">
                        at most {counted(job.rollout.max_in_progress, "device")} in progress
                    </span>
                )}
            </h2>
            <div class="across" tabIndex={0} role="group" aria-label="Table of stages">
                <table class="stack">
                    <thead>
                        <tr>
                            <th>Stage</th>
                            <th class="wide">Progress</th>
                            <th class="number">Devices</th>
                            <th class="number">Failed</th>
                            <th>Gate of the next stage</th>
                        </tr>
                    </thead>
                    <tbody>
                        {stages.map((stage, index) => {
                            const config = job.rollout?.stages[index];
                            const { word, tone } = stageState(job, index);
                            const notes = [
                                // Events and commands have the number.
                                stage.display_name && `stage ${index}`,
                                config && stageDevices(config),
                                word,
                                config && rate(config),
                            ];
                            return (
                                <tr key={index}>
                                    <td>
                                        <span class={`dot ${tone}`} aria-hidden="true" />{" "}
                                        {stageName(job, index)}{" "}
                                        <span class="quiet">{notes.filter(Boolean).join(" · ")}</span>
                                    </td>
                                    <td class="wide">
                                        <Bar
                                            counts={stage.execution_counts}
                                            total={stage.total_executions}
                                            label={stageName(job, index)}
                                        />
                                    </td>
                                    <td class="number">{count(stage.total_executions)}</td>
                                    <td
                                        class={`number ${failures(stage.execution_counts) ? "failed" : "extra"}`}
                                    >
                                        <Failed job={job} stage={index} />
                                    </td>
                                    <td class="gate">{gateState(job, index, serverNow())}</td>
                                </tr>
                            );
                        })}
                    </tbody>
                </table>
            </div>
        </section>
    );
}

/** The failures of a stage, which lead to its devices. */
function Failed({ job, stage }: { job: Job; stage: number }) {
    const counts = job.stages?.[stage]?.execution_counts;
    if (!counts) return null;
    const failed = failures(counts);
    if (!failed) return <>0</>;
    // The devices are listed by one status: without it, if the failures have several.
    const statuses = failedStatuses.filter((name) => counts[name]);
    const status = statuses.length === 1 ? (statuses[0] ?? "").toUpperCase() : "";
    return (
        <a
            href={jobPath(job.job_id) + search({ tab: "executions", stage: String(stage), status })}
            onClick={showDetails}
            aria-label={`${counted(failed, "failure")} in ${stageName(job, stage)}`}
        >
            {count(failed)}
        </a>
    );
}
