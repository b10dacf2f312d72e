/** The stages of a rollout: size, state, progress, and what opens the next one. */

import type { Job, Stage } from "../api/client";
import { count, counted, percent, seconds, shown, span } from "../format";
import { jobPath, search } from "../query";
import { gateText } from "../waits";
import { failed, failedStatuses, isActive, rate, stageDevices, stageLabel, type Tone } from "../words";
import { Bar } from "./bar";
import { showDetails } from "./details";
import { Table } from "./table";

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
            <p class="pad quiet">
                The gate of a stage is what opens the next one. Devices of stages that are not open are held.
            </p>
            <div class="across" tabIndex={0} role="group" aria-label="Table of stages">
                <Table
                    class="stack"
                    columns={{
                        Stage: "",
                        Progress: "wide",
                        Devices: "number",
                        Failed: "number",
                        "Gate of the next stage": "",
                    }}
                >
                    {stages.map((stage, index) => {
                        const config = job.rollout?.stages[index];
                        const { word, tone } = stageState(job, index);
                        const notes = [
                            // Events and commands have the number.
                            `stage ${index}`,
                            stage.display_name && config && stageDevices(config),
                            word,
                            config && rate(config),
                        ];
                        return (
                            <tr key={index}>
                                <td>
                                    <span class={`dot ${tone}`} aria-hidden="true" /> {stageLabel(job, index)}{" "}
                                    <span class="quiet">{notes.filter(Boolean).join(" · ")}</span>
                                </td>
                                <td class="wide">
                                    <Bar
                                        counts={stage.execution_counts}
                                        total={stage.total_executions}
                                        canceled={job.status === "CANCELED"}
                                        label={stageLabel(job, index)}
                                    />
                                </td>
                                <td class="number">{count(stage.total_executions)}</td>
                                <td
                                    class={`number ${failed(job, stage.execution_counts) ? "failed" : "extra"}`}
                                >
                                    <Failed job={job} stage={index} />
                                </td>
                                <td class="gate">{gate(job, index)}</td>
                            </tr>
                        );
                    })}
                </Table>
            </div>
        </section>
    );
}

/** The failures of a stage, which lead to its devices. */
function Failed({ job, stage }: { job: Job; stage: number }) {
    const counts = job.stages?.[stage]?.execution_counts;
    if (!counts) return null;
    const n = failed(job, counts);
    if (!n) return <>0</>;
    // The devices are listed by one status: without it, if the failures have several.
    const statuses = failedStatuses(job).filter((name) => counts[name]);
    const status = statuses.length === 1 ? (statuses[0] ?? "").toUpperCase() : "";
    return (
        <a
            href={jobPath(job.job_id) + search({ tab: "executions", stage: String(stage), status })}
            onClick={showDetails}
            aria-label={`${counted(n, "failure")} in ${stageLabel(job, stage)}`}
        >
            {count(n)}
        </a>
    );
}

/** The state of a stage. In a finished job, the API reports PASSED even for stages that never opened or were stopped. */
function stageState(job: Job, index: number): { word: string; tone: Tone } {
    const stages = job.stages ?? [];
    const stage = stages[index];
    if (!stage || stage.state === "PENDING") return { word: "not open yet", tone: "quiet" };
    if (stage.state === "OPEN" && job.status !== "CANCELED")
        return { word: "open", tone: stage.awaiting_approval ? "warn" : "busy" };
    if (isActive(job)) return { word: "passed", tone: "good" };
    if (!stage.opened_at) return { word: "not opened", tone: "quiet" };
    const isLastOpened = !stages[index + 1]?.opened_at;
    const wasStopped = job.status === "CANCELED" || index < stages.length - 1;
    return isLastOpened && wasStopped ? { word: "stopped", tone: "warn" } : { word: "passed", tone: "good" };
}

/** What opens the stage after this one, as configured, such as "95 % succeeded, then wait 1 h". */
function gateRule(stage: Stage): string {
    const gate = stage.gate;
    const rules = [
        gate?.min_succeeded_percent ? `${gate.min_succeeded_percent} % succeeded` : "all finished",
    ];
    const [bake, latest] = [seconds(gate?.bake_time), seconds(gate?.advance_after)];
    if (bake) rules.push(`then wait ${span(bake)}`);
    if (latest) rules.push(`or ${span(latest)} after the stage opened`);
    if (gate?.require_approval) rules.push(`and ${latest ? "in both cases " : ""}an approval`);
    return rules.join(", ");
}

/** What has opened the stage after this one, or what it waits for now. */
function gate(job: Job, index: number): string {
    const state = job.stages?.[index];
    const config = job.rollout?.stages[index];
    if (!state || !config) return "";
    if (index === (job.stages?.length ?? 0) - 1) return "none (last stage)";
    if (state.state === "PENDING" || (!isActive(job) && !state.opened_at)) return gateRule(config);
    const { approval } = state;
    const comment = approval?.comment ? `: “${shown(approval.comment)}”` : "";
    return [
        (state.state === "OPEN" && gateText(job, index)) ||
            `${percent(state.execution_counts.succeeded, state.total_executions)} succeeded`,
        approval && `approved by ${shown(approval.approved_by)}${comment}`,
    ]
        .filter(Boolean)
        .join("; ");
}
