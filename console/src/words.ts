/** Says in an operator's words what the API reports: statuses, targets, criteria, windows, events. */

import type { Counts, Criterion, Event, Job, Stage, StartWindow } from "./api/client";
import { absolute, count, counted, seconds, shown, span } from "./format";

export type Tone = "good" | "busy" | "warn" | "bad" | "quiet";

export interface Status {
    word: string;
    tone: Tone;
    /** The reason, or what it waits for; "" if there is none. */
    detail: string;
}

/** The counts of executions that did not succeed. */
const unsuccessful = ["failed", "timed_out", "rejected"] as const;

export function failures(counts: Counts): number {
    return unsuccessful.reduce((sum, name) => sum + counts[name], 0);
}

/** The counts of devices that failed: in a canceled job, most that are rejected were canceled. */
export function failedStatuses(job: Job) {
    return unsuccessful.filter((name) => name !== "rejected" || job.status !== "CANCELED");
}

export function failed(job: Job, counts: Counts): number {
    return failedStatuses(job).reduce((sum, name) => sum + counts[name], 0);
}

/** The executions that have not started. */
export function unstarted(counts: Pick<Counts, "queued" | "held">): number {
    return counts.queued + counts.held;
}

/** The executions that have not ended. */
export function unfinished(counts: Counts): number {
    return unstarted(counts) + counts.in_progress;
}

export function isActive(job: Job): boolean {
    return job.status !== "COMPLETED" && job.status !== "CANCELED";
}

/** The devices that a stage takes, such as "10 %" or "group lab". */
export function stageDevices(stage: Stage): string {
    if (stage.group_id) return `group ${shown(stage.group_id)}`;
    if (stage.selector) return shown(stage.selector);
    if (stage.percent) return `${stage.percent} %`;
    if (stage.device_count) return counted(stage.device_count, "device");
    return "the rest";
}

/** What a stage is called in a sentence: its name, or "stage 1 (5 %)"; without its job, "stage 1". */
export function stageName(job: Job | undefined, index: number): string {
    const config = job?.rollout?.stages[index];
    const name = shown(job?.stages?.[index]?.display_name ?? "");
    return name || `stage ${index}${config ? ` (${stageDevices(config)})` : ""}`;
}

/** What a stage is called in a table: its name, or what it takes, such as "5 %". */
export function stageLabel(job: Job, index: number): string {
    const config = job.rollout?.stages[index];
    const name = shown(job.stages?.[index]?.display_name ?? "");
    return name || (config ? stageDevices(config) : stageName(job, index));
}

/** How fast devices start, such as "400 per minute"; "": at once. */
export function rate(stage: Stage): string {
    return stage.releases_per_minute ? `${count(stage.releases_per_minute)} per minute` : "";
}

/** The open stage that waits for an approval; -1: none does. */
export function awaitingApproval(job: Job): number {
    return job.stages?.findIndex((stage) => stage.awaiting_approval) ?? -1;
}

/** The status of a job; `awaits`: a stage waits for an approval, if the stages are not known. */
export function status(job: Job, awaits = false): Status {
    const failed = failures(job.execution_counts);
    switch (job.status) {
        case "PAUSED":
            return {
                word: "Paused",
                tone: "warn",
                // A pause for the approval alone has no reason. ListJobs leaves out waits_for.
                detail: [
                    shown(job.pause?.reason ?? "") ||
                        (job.pause?.cause === "STAGE_REJECTED" && "a stage was rejected"),
                    job.start_approval && !job.start_approval.approved_at && "the start needs an approval",
                ]
                    .filter(Boolean)
                    .join("; "),
            };
        case "CANCELED":
            return { word: "Canceled", tone: "quiet", detail: shown(job.cancel_reason ?? "") };
        case "SCHEDULED":
            return {
                word: "Scheduled",
                tone: "quiet",
                detail: job.start_at ? `starts ${absolute(Date.parse(job.start_at))}` : "",
            };
        case "COMPLETED": {
            if (!failed) return { word: "Completed", tone: "good", detail: "" };
            return {
                word: "Completed",
                tone: "warn",
                detail: `${counted(failed, "device")} did not succeed`,
            };
        }
        default: {
            const stage = awaitingApproval(job);
            if (stage < 0 && !awaits) {
                const detail = failed ? `${counted(failed, "device")} failed` : "";
                return { word: "In progress", tone: "busy", detail };
            }
            const name = stage < 0 ? "the next stage" : stageName(job, stage + 1);
            return { word: "In progress", tone: "warn", detail: `${name} needs an approval` };
        }
    }
}

/** The target of a job, such as "group north" or "all devices". */
export function target(job: Job): string {
    if (job.target_device_id) return `device ${shown(job.target_device_id)}`;
    if (job.target_group_id) return `group ${shown(job.target_group_id)}`;
    if (job.target_selector) return `devices where ${shown(job.target_selector)}`;
    if (job.target_device_count) return `a list of ${counted(job.target_device_count, "device")}`;
    if (job.target_failed_in) return `devices that failed in ${shown(job.target_failed_in.job_id)}`;
    return "all devices";
}

/** A failure criterion as a sentence, such as "Pause when 5 % of the finished devices of a stage failed". */
export function criterion(c: Criterion): string {
    const action = {
        PAUSE: "Pause",
        CANCEL: "Cancel",
        FORCE_CANCEL: "Cancel, including devices in progress,",
    }[c.action];
    const codes = c.failure_codes.length ? ` with ${c.failure_codes.map(shown).join(" or ")}` : "";
    const scope = c.scope === "STAGE" ? " of a stage" : "";
    if (!c.percent) return `${action} at ${counted(c.count ?? 0, "failure")}${scope}${codes}`;
    const basis = `the ${c.basis.toLowerCase()} devices${scope}`;
    const minimum = c.min_finished ? `, once ${counted(c.min_finished, "device")} finished` : "";
    return `${action} when ${c.percent} % of ${basis} failed${codes}${minimum}`;
}

export const dayNames: Record<string, string> = {
    MONDAY: "Mon",
    TUESDAY: "Tue",
    WEDNESDAY: "Wed",
    THURSDAY: "Thu",
    FRIDAY: "Fri",
    SATURDAY: "Sat",
    SUNDAY: "Sun",
};

/** Start windows, such as "Mon, Tue 22:00 for 6 h (in the zone of each device)". */
export function windows(list: StartWindow[], zone: string): string {
    if (!list.length) return "at any time";
    const texts = list.map((w) => {
        const days =
            w.days.length && w.days.length < 7 ? w.days.map((d) => dayNames[d] ?? d).join(", ") : "daily";
        return `${days} ${w.start_time} for ${span(seconds(w.duration))}`;
    });
    return `${texts.join("; ")} (${zone === "DEVICE" ? "in the zone of each device" : zone || "UTC"})`;
}

/** What a job that is stopped needs, and why. null: it continues by itself. */
export interface Notice {
    tone: Tone;
    title: string;
    text: string;
}

/** A reason after what it explains; "" if none was given. */
function because(reason: string | null): string {
    return reason ? `: ${shown(reason)}` : "";
}

/** The notice of a job; `opening`: when a start window opens, if none is open now. */
export function notice(job: Job, ago: (time: string) => string, opening: string | null): Notice | null {
    const counts = job.execution_counts;
    if (job.status === "PAUSED" && job.pause) {
        const waitsFor = job.waits_for ?? [];
        const ends = [
            waitsFor.some((wait) => wait.kind === "START_APPROVAL") && "the start is approved",
            job.pause.cause !== "START_APPROVAL" && "the job is resumed",
        ].filter(Boolean);
        const waits = unstarted(counts)
            ? `Nothing starts until ${ends.join(" and ")}.`
            : "All devices have already started: nothing is held back.";
        const running = counts.in_progress
            ? ` ${counted(counts.in_progress, "device")} that had started ${counts.in_progress === 1 ? "is" : "are"} finishing.`
            : "";
        const advice =
            job.pause.cause === "FAILURE_CRITERION"
                ? " Look at the failures first: resuming resets the failure counts of all criteria to 0."
                : "";
        return {
            tone: "warn",
            title: shown(job.waits_for?.[0]?.message ?? `Paused${because(job.pause.reason)}`),
            text: `Paused ${ago(job.pause.paused_at ?? "")}${ends.length > 1 ? because(job.pause.reason) : ""}. ${waits}${running}${advice}`,
        };
    }
    const stage = awaitingApproval(job);
    if (stage >= 0) {
        return {
            tone: "warn",
            title: `Approval needed to open ${stageName(job, stage + 1)}`,
            text: shown((job.waits_for ?? []).find((wait) => wait.kind === "APPROVAL")?.message ?? ""),
        };
    }
    if (job.status === "SCHEDULED" && job.start_at) {
        return {
            tone: "quiet",
            title: `Starts ${ago(job.start_at)}`,
            text: `Its devices are held until ${absolute(Date.parse(job.start_at))}.`,
        };
    }
    if (job.status === "COMPLETED" && failures(counts)) {
        return {
            tone: "bad",
            title: `${counted(failures(counts), "device")} did not succeed`,
            text: "Look at the failures by code. A retry gives these devices another attempt.",
        };
    }
    if (job.status === "CANCELED") {
        const running = counts.in_progress
            ? `${counted(counts.in_progress, "device")} that had started can still finish.`
            : "No device is working on it.";
        return { tone: "quiet", title: `Canceled${because(job.cancel_reason)}`, text: running };
    }
    if (job.status === "IN_PROGRESS" && job.retry_budget_exhausted) {
        return {
            tone: "warn",
            title: "Devices are no longer retried automatically",
            text: "More than 10 % of the released devices needed a retry. Look at the failures: further ones are final.",
        };
    }
    if (job.status === "IN_PROGRESS" && opening) {
        return {
            tone: "quiet",
            title: `No start window is open; the next one opens ${ago(opening)}`,
            text: `Devices can start ${windows(job.start_windows ?? [], job.window_time_zone)}. Those that have started can finish.`,
        };
    }
    return null;
}

/** The types of events in the OpenAPI document. */
export const eventTypes = __EVENT_TYPES__;

const typeWords: Record<string, string> = {
    "job.tripped": "failure criterion tripped",
    "job.updated": "changed",
    "executions.finished": "attempts finished",
};

/** The type of an event in words, such as "stage opened". */
export function eventType(type: string): string {
    return typeWords[type] ?? type.replace("job.", "").replaceAll("_", " ");
}

/** Counts in words, such as "9 succeeded, 1 timed out". */
function results(counts: Counts): string {
    const parts = Object.entries(counts).filter(([, n]) => n);
    return parts.map(([name, n]) => `${count(n)} ${name.replace("_", " ")}`).join(", ") || "no devices";
}

/** An event as a sentence. An event has only the number of a stage: its job has the name. */
export function event(e: Event, job?: Job): string {
    const by = e.user_id ? ` by ${shown(e.user_id)}` : "";
    const reason = because(e.reason);
    const stage = stageName(job, e.stage ?? 0);
    switch (e.type) {
        case "job.created":
            return `created${by}${e.replaces_job_id && `, replaces ${shown(e.replaces_job_id)}`}`;
        case "job.start_approved":
            return `the start was approved${by}${reason}`;
        case "job.stage_opened":
            if (e.cause === "OPERATOR") return `${stage} opened${by}`;
            return `${stage} opened ${e.user_id ? `after the approval${by}` : "automatically"}`;
        case "job.awaiting_approval":
            return `the gate of ${stage} waits for approval`;
        case "job.stage_approved":
            return `the gate of ${stage} was approved${by}${reason}`;
        case "job.stage_rejected":
            return `the gate of ${stage} was rejected${by}${reason}`;
        case "job.tripped":
            return `a failure criterion tripped${reason}`;
        case "job.paused":
            return `paused${e.cause === "START_APPROVAL" ? " until the start is approved" : by}${reason}`;
        case "job.resumed":
            return `resumed${by}`;
        case "job.updated":
            return `changed${by}: ${e.updated_fields.join(", ")}`;
        case "job.retried":
            return `${counted(e.retried_count, "execution")} retried${by}`;
        case "job.devices_joined":
            return `${counted(e.joined_count, "device")} joined`;
        case "job.canceled":
            return `${e.cause === "START_REJECTED" ? "the start was rejected, which canceled the job," : "canceled"}${by}${reason}`;
        case "job.expired":
            return "expired";
        case "job.completed":
            return `completed: ${results(e.execution_counts)}`;
        case "job.deleted":
            return `deleted${by}`;
        case "executions.finished":
            return `${counted(e.attempts.length, "attempt")} finished`;
        default:
            return shown(e.type);
    }
}

export function eventTone(e: Event): Tone {
    if (e.type === "job.tripped" || e.type === "job.stage_rejected" || e.type === "job.canceled")
        return "bad";
    if (e.type === "job.paused" || e.type === "job.awaiting_approval") return "warn";
    if (e.type === "job.completed") return failures(e.execution_counts) ? "warn" : "good";
    return "quiet";
}

/** The words for an execution's status. What the service ended is not the fault of the device. */
export function executionState(e: { status: string; end_cause: string | null }): ExecutionWords {
    const known = executionWords[e.status] ?? { word: shown(e.status), tone: "quiet" };
    const cause = e.end_cause && endCauses[e.end_cause];
    return cause ? { word: cause, tone: "quiet" } : known;
}

const endCauses: Record<string, string> = {
    JOB_CANCELED: "Canceled with the job",
    EXECUTION_CANCELED: "Canceled",
    DEVICE_DELETED: "Device deleted",
    JOB_EXPIRED: "Expired with the job",
};

interface ExecutionWords {
    word: string;
    tone: Tone;
    /** What the status means. */
    hint?: string;
}

/** The words for the statuses of executions. */
export const executionWords: Record<string, ExecutionWords> = {
    QUEUED: {
        word: "Queued",
        tone: "quiet",
        hint: "Released: the device can get it, unless the job is paused, or it waits for a window or a retry",
    },
    HELD: {
        word: "Held",
        tone: "quiet",
        hint: "The job does not let these devices start yet, because of its stages, rate or start time",
    },
    IN_PROGRESS: { word: "In progress", tone: "busy" },
    SUCCEEDED: { word: "Succeeded", tone: "good" },
    FAILED: { word: "Failed", tone: "bad" },
    TIMED_OUT: { word: "Timed out", tone: "bad" },
    REJECTED: { word: "Rejected", tone: "bad" },
};
