/** The stages of a job in an operator's words: their states, their gates, and what can start. */

import type { Job, JobStage, Stage } from "./api/client";
import { absolute, count, counted, countdown, percent, seconds, shown, span } from "./format";
import { isActive, stageName, unfinished, windows, type Tone } from "./words";

/** The state of a stage. In a finished job, the API also calls a stage PASSED that has not opened or was stopped. */
export function stageState(job: Job, index: number): { word: string; tone: Tone } {
    const stages = job.stages ?? [];
    const stage = stages[index];
    if (!stage || stage.state === "PENDING") return { word: "not open yet", tone: "quiet" };
    if (stage.state === "OPEN") return { word: "open", tone: stage.awaiting_approval ? "warn" : "busy" };
    if (isActive(job)) return { word: "passed", tone: "good" };
    if (!stage.opened_at) return { word: "not opened", tone: "quiet" };
    const isLastOpened = !stages[index + 1]?.opened_at;
    const wasStopped = job.status === "CANCELED" || index < stages.length - 1;
    return isLastOpened && wasStopped ? { word: "stopped", tone: "warn" } : { word: "passed", tone: "good" };
}

/** The devices that a stage takes, such as "10 %" or "group lab". */
export function stageDevices(stage: Stage): string {
    if (stage.group_id) return `group ${shown(stage.group_id)}`;
    if (stage.selector) return shown(stage.selector);
    if (stage.percent) return `${stage.percent} %`;
    if (stage.device_count) return counted(stage.device_count, "device");
    return "the rest";
}

/** What opens the stage after this one, as configured, such as "95 % succeeded, then wait 1 h". */
export function gateRule(stage: Stage): string {
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
export function gateState(job: Job, index: number, now: number): string {
    const state = job.stages?.[index];
    const config = job.rollout?.stages[index];
    if (!state || !config) return "";
    if (index === (job.stages?.length ?? 0) - 1) return "none (last stage)";
    if (state.state === "PENDING") return gateRule(config);
    const approval = state.approval
        ? `approved by ${shown(state.approval.approved_by)}${state.approval.comment ? `: “${shown(state.approval.comment)}”` : ""}`
        : "";
    const succeeded = `${percent(state.execution_counts.succeeded, state.total_executions)} succeeded`;
    if (!isActive(job) && !state.opened_at) return gateRule(config);
    if (state.state === "PASSED") return [succeeded, approval].filter(Boolean).join(", ");
    if (state.awaiting_approval) return `${succeeded}; needs an approval`;
    const left = state.next_opens_at && (Date.parse(state.next_opens_at) - now) / 1000;
    const opening = left ? `in ${countdown(left)}` : "";
    const missing = missingForGate(state, config);
    if (!missing)
        return [succeeded, opening || "waits until the job is resumed", approval].filter(Boolean).join("; ");
    const later = config.gate?.require_approval && !approval ? "then an approval" : approval;
    return [missing, opening && `or ${opening}`, later].filter(Boolean).join("; ");
}

/** Why a stage is not open: what the gate of the open stage waits for. */
export function whyNotOpen(job: Job, stage: number, open: number, now: number): string {
    return `${stageName(job, stage)} is not open. The gate of ${stageName(job, open)}: ${gateState(job, open, now)}.`;
}

/** What the open stage lacks for its gate; "": it has met it. */
function missingForGate(state: JobStage, config: Stage): string {
    const { succeeded } = state.execution_counts;
    const required = config.gate?.min_succeeded_percent;
    if (required) {
        if (succeeded * 100 >= required * state.total_executions) return "";
        return `${percent(succeeded, state.total_executions)} succeeded, ${required} % required`;
    }
    const left = unfinished(state.execution_counts);
    return left === 0 ? "" : `${counted(left, "device")} not finished yet`;
}

/** The stage that is open; -1: none is. */
function openStage(job: Job): number {
    return job.stages?.findIndex((stage) => stage.state === "OPEN") ?? -1;
}

/** What can start when a paused job is resumed, and what the other devices wait for. */
export function afterResume(job: Job, now: number): string {
    if (job.start_at && Date.parse(job.start_at) > now) {
        return `Devices can start from ${absolute(Date.parse(job.start_at))} on.`;
    }
    const { queued, held } = job.execution_counts;
    const open = openStage(job);
    const state = job.stages?.[open];
    const config = job.rollout?.stages[open];
    // A job without stages holds all its devices until it starts.
    const next = state ? state.execution_counts.held : held;
    const speed = config ? rate(config) : "";
    const ready = queued + (speed ? 0 : next);
    const limits = [
        job.rollout?.max_in_progress && `, at most ${count(job.rollout.max_in_progress)} at a time`,
        job.start_windows?.length && `, ${windows(job.start_windows, job.window_time_zone)}`,
    ];
    const none = held ? "No device can start yet." : "No device waits to start.";
    const texts = [ready ? `${counted(ready, "device")} can start${limits.filter(Boolean).join("")}.` : none];
    if (speed && next) texts.push(`${counted(next, "more device")} can start at ${speed}.`);
    if (held > next && state && config) texts.push(gateAfterResume(job, open, state, config));
    return texts.join(" ");
}

/** What the gate of the open stage does when the job is resumed. */
function gateAfterResume(job: Job, open: number, state: JobStage, config: Stage): string {
    const missing = missingForGate(state, config);
    const waits = seconds(config.gate?.bake_time) || (config.gate?.require_approval && !state.approval);
    const later = (job.stages ?? []).slice(open + 1).map((stage) => stage.execution_counts.held);
    if (!missing && !waits) {
        const size = counted(later[0] ?? 0, "device");
        return `The gate of ${stageName(job, open)} is met: ${stageName(job, open + 1)} opens (${size}).`;
    }
    const devices = later.reduce((sum, n) => sum + n, 0);
    return `The gate of ${stageName(job, open)} holds back ${counted(devices, "device")} (${missing || gateRule(config)}).`;
}

/** The job is paused by a gate that would pause it again at once: the service refuses to resume it. */
export function isStoppedByGate(job: Job): boolean {
    const open = openStage(job);
    const state = job.stages?.[open];
    const config = job.rollout?.stages[open];
    if (job.pause?.cause !== "GATE_NOT_MET" || !state || !config) return false;
    const isFinished = unfinished(state.execution_counts) === 0;
    return isFinished && missingForGate(state, config) !== "" && !seconds(config.gate?.advance_after);
}

/** How fast devices start, such as "400 per minute"; "": at once. */
export function rate(stage: Stage): string {
    return stage.releases_per_minute ? `${count(stage.releases_per_minute)} per minute` : "";
}
