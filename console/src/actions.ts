/** What operators do with jobs: the questions that the console asks, and the calls that it makes. */

import { restPath, send, type Counts, type Request, type Execution, type Job } from "./api/client";
import { serverNow } from "./clock";
import { command, labelOptions, option, post, withInput, withValues } from "./commands";
import { absolute, count, counted } from "./format";
import type { Question } from "./parts/dialog";
import { may } from "./session";
import { allows, gateText } from "./waits";
import { failures, rate, stageName, unfinished, unstarted, windows } from "./words";

/** Called after an action; ends when the page shows its result. */
type Done = () => void | Promise<void>;

const none = () => [];
const path = (job: Job, verb = "") => restPath("jobs", job.job_id) + verb;

/**
 * What a dialog shows for a terminal, and what it sends: the same request, which acts on this version of the job.
 * `options` and `request` are asked with the reason that was given.
 */
function call(
    job: Job,
    done: Done,
    words: string[],
    options: (reason?: string) => string[],
    request: (reason?: string) => Request,
): Pick<Question, "job" | "command" | "run"> {
    return {
        job,
        command: (reason) => command(words, options(reason), request(reason)),
        run: async (reason) => {
            const { body: fields, ...sent } = request(reason);
            await send({ ...sent, body: { ...(fields as object), etag: job.etag } });
            await done();
        },
    };
}

export const canPause = (job: Job) => may("PauseJob") && allows(job, "PAUSE");
export const canResume = (job: Job) => may("ResumeJob") && allows(job, "RESUME");
export const canCancel = (job: Job) => may("CancelJob") && allows(job, "CANCEL");
export const canDelete = (job: Job) => may("DeleteJob") && allows(job, "DELETE");
export const canAdvance = (job: Job) => may("AdvanceJob") && allows(job, "ADVANCE");
export const canReject = (job: Job) => may("RejectStage") && allows(job, "REJECT_STAGE");
export const canChange = () => may("UpdateJob");
export const canRetry = (job: Job) => may("RetryExecutions") && allows(job, "RETRY");

type Unfinished = Pick<Counts, "queued" | "held" | "in_progress">;

const inProgress = (c: Unfinished) => `executions in progress (${counted(c.in_progress, "device")})`;

const seenOnJob = "Shown on the page of the job, in its history and in webhooks";

/** What a pause does to the devices of a job, or of several; `until` is what ends it. */
export function pauseEffect(c: Unfinished, until = "the job is resumed"): string {
    const running = c.in_progress
        ? ` A pause does not stop ${inProgress(c)}; a cancel with force ends them.`
        : "";
    return `${counted(unstarted(c), "device")} will not start until ${until}.${running}`;
}

/** What a cancel does to the devices of a job, or of several. */
export function cancelEffect(c: Unfinished, force = false): string {
    const end = force
        ? "end now; their devices learn of it when they next poll or report"
        : "can still finish";
    const running = c.in_progress ? ` The ${inProgress(c)} ${end}.` : "";
    return `${counted(unstarted(c), "device")} will never start.${running} This can't be undone.`;
}

export function pause(job: Job, done: Done): Question {
    return {
        title: `Pause ${job.job_id}?`,
        children: pauseEffect(job.execution_counts),
        action: "Pause",
        reasonVisibility: `${seenOnJob}.`,
        ...call(
            job,
            done,
            ["pause", job.job_id],
            (reason) => option("--reason", reason),
            (reason) => post(path(job, ":pause"), { reason }),
        ),
    };
}

/** What can start when a paused job is resumed, and what the other devices wait for. */
function afterResume(job: Job): string {
    if (job.start_at && Date.parse(job.start_at) > serverNow()) {
        return `Devices can start at ${absolute(Date.parse(job.start_at))}.`;
    }
    const { queued, held } = job.execution_counts;
    const stages = job.stages ?? [];
    const open = stages.findIndex((stage) => stage.state === "OPEN");
    const config = job.rollout?.stages[open];
    // A job without stages holds all its devices until it starts.
    const next = stages[open]?.execution_counts.held ?? held;
    const speed = config ? rate(config) : "";
    const ready = queued + (speed ? 0 : next);
    const limits = [
        job.rollout?.max_in_progress && `, at most ${count(job.rollout.max_in_progress)} at a time`,
        job.start_windows?.length && `, ${windows(job.start_windows, job.window_time_zone)}`,
    ];
    const none = held ? "No device can start yet." : "No device waits to start.";
    const texts = [ready ? `${counted(ready, "device")} can start${limits.filter(Boolean).join("")}.` : none];
    if (speed && next) texts.push(`${counted(next, "more device")} can start at ${speed}.`);
    if (held > next && open >= 0) {
        const gate = gateText(job, open);
        const later = counted(held - next, "more device");
        texts.push(gate ? `${later} must wait: ${gate}` : `${stageName(job, open + 1)} opens.`);
    }
    return texts.join(" ");
}

export function resume(job: Job, done: Done): Question {
    const resets = job.failure_criteria?.length
        ? " This resets the failure counts of all criteria to 0."
        : "";
    return {
        title: `Resume ${job.job_id}?`,
        children: afterResume(job) + resets,
        action: "Resume",
        ...call(job, done, ["resume", job.job_id], none, () => post(path(job, ":resume"))),
    };
}

export function cancel(job: Job, done: Done): Question {
    const counts = job.execution_counts;
    const forced = {
        label: `With force: also end the ${inProgress(counts)}`,
        question: cancelQuestion(job, true, done),
    };
    return { ...cancelQuestion(job, false, done), choice: counts.in_progress ? forced : undefined };
}

function cancelQuestion(job: Job, force: boolean, done: Done): Question {
    return {
        title: `Cancel ${job.job_id}?`,
        children: cancelEffect(job.execution_counts, force),
        action: "Cancel job",
        destructive: true,
        devices: unfinished(job.execution_counts),
        typed: job.job_id,
        reasonVisibility: `${seenOnJob}, and with each device that the cancel ends.`,
        ...call(
            job,
            done,
            ["cancel", job.job_id],
            (reason) => [...option("--reason", reason), ...(force ? ["--force"] : [])],
            (reason) => ({ method: "DELETE", path: path(job), body: { force, reason } }),
        ),
    };
}

/** Cancels the execution of one device. */
export function cancelExecution(jobId: string, execution: Execution, done: Done): Question {
    const deviceId = execution.device_id;
    const force = execution.status === "IN_PROGRESS";
    const request = (reason?: string) => ({
        method: "DELETE",
        path: restPath("jobs", jobId, "executions", deviceId),
        body: { force, reason },
    });
    return {
        title: `Cancel ${jobId} on ${deviceId}?`,
        children: force
            ? "The device has started, and learns of the cancel when it next polls or reports. This can't be undone."
            : "The device will never start it. This can't be undone.",
        action: "Cancel execution",
        destructive: true,
        reasonVisibility: "Shown with this execution, which the device can read.",
        command: (reason) =>
            command(
                ["cancel", jobId],
                [
                    ...option("--device", deviceId),
                    ...option("--reason", reason),
                    ...(force ? ["--force"] : []),
                ],
                request(reason),
            ),
        run: async (reason) => {
            await send(request(reason));
            await done();
        },
    };
}

/** What the deletion of a job does, or that of several "jobs". */
export function removeEffect(devices: number, what = "job"): string {
    return `The ${what} and the results of ${counted(devices, "device")} are removed. This can't be undone.`;
}

export function remove(job: Job, done: Done): Question {
    return {
        title: `Delete ${job.job_id}?`,
        children: removeEffect(job.total_executions),
        action: "Delete job",
        destructive: true,
        devices: job.total_executions,
        typed: job.job_id,
        ...call(job, done, ["delete", job.job_id], none, () => post(path(job, ":delete"))),
    };
}

/** When devices can start if the job is paused. */
const onceResumed = (job: Job) => (job.status === "PAUSED" ? " after the job is resumed" : "");

export function advance(job: Job, done: Done): Question {
    const next = (job.stages ?? []).findIndex((stage) => stage.state === "PENDING");
    const size = job.stages?.[next]?.total_executions ?? 0;
    return {
        title: `Open ${stageName(job, next)} of ${job.job_id} now?`,
        children: `The gate of ${stageName(job, next - 1)} is not met. ${counted(size, "device")} can start${onceResumed(job)}.`,
        action: "Open stage",
        devices: size,
        ...call(
            job,
            done,
            ["advance", job.job_id],
            () => ["--stage", String(next)],
            () => post(path(job, ":advance"), { stage: next }),
        ),
    };
}

/** An approval or a rejection, of a stage or, without its number, of the start. */
function decision(job: Job, done: Done, verb: "approve" | "reject", comment: string, stage?: number) {
    const [subject, method] =
        stage === undefined ? ["--start", `:${verb}Start`] : [String(stage), `/stages/${stage}:${verb}`];
    return call(
        job,
        done,
        [verb, job.job_id, subject],
        () => option("--comment", comment),
        () => post(path(job, method), { comment }),
    );
}

const quoted = (comment: string) => comment && ` Comment: “${comment}”`;

export function approve(job: Job, stage: number, comment: string, done: Done): Question {
    const next = stageName(job, stage + 1);
    const size = counted(job.stages?.[stage + 1]?.total_executions ?? 0, "device");
    return {
        title: `Approve ${next} of ${job.job_id}?`,
        children: `This opens ${next}: ${size} can start${onceResumed(job)}.${quoted(comment)}`,
        action: "Approve",
        outcome: `Approved: ${next} opens (${size})${onceResumed(job)}.`,
        ...decision(job, done, "approve", comment, stage),
    };
}

export function reject(job: Job, stage: number, comment: string, done: Done): Question {
    const next = stageName(job, stage + 1);
    return {
        title: `Reject ${next} of ${job.job_id}?`,
        children: `This pauses the job: ${pauseEffect(job.execution_counts)} After a resume, ${next} still needs an approval.${quoted(comment)}`,
        action: "Reject",
        outcome: `Rejected: the job is paused, and ${next} still needs an approval.`,
        ...decision(job, done, "reject", comment, stage),
    };
}

export function approveStart(job: Job, comment: string, done: Done): Question {
    const after = job.pause?.cause === "START_APPROVAL" ? "" : onceResumed(job);
    return {
        title: `Approve the start of ${job.job_id}?`,
        children: `${counted(unstarted(job.execution_counts), "device")} can start${after}, as its stages and start times allow.${quoted(comment)}`,
        action: "Approve start",
        outcome: `Approved: the job can start${after}.`,
        ...decision(job, done, "approve", comment),
    };
}

export function rejectStart(job: Job, comment: string, done: Done): Question {
    return {
        title: `Reject the start of ${job.job_id}?`,
        children: `The job is canceled. ${cancelEffect(job.execution_counts)}${quoted(comment)}`,
        action: "Reject start",
        destructive: true,
        ...decision(job, done, "reject", comment),
    };
}

/** Failures that can be retried: of one status and code ("": without one), or of one device. */
export interface Failure {
    status: FailureStatus;
    code?: string;
    deviceId?: string;
    devices: number;
}
type FailureStatus = "FAILED" | "TIMED_OUT" | "REJECTED";
const failureStatuses: FailureStatus[] = ["FAILED", "TIMED_OUT", "REJECTED"];

export const isFailure = (status: string): status is FailureStatus =>
    failureStatuses.some((name) => name === status);

// A job that has expired gets this time for the retry.
const HOURS_AFTER_EXPIRY = 24;

/** Asks about the retry of some failures, or of all (null). */
export function retry(job: Job, failure: Failure | null, done: Done): Question {
    const devices = failure ? failure.devices : failures(job.execution_counts);
    const statuses = failure ? [failure.status] : failureStatuses;
    const { code, deviceId } = failure ?? {};
    const isExpired = job.expires_at !== null && Date.parse(job.expires_at) <= serverNow();
    const request = {
        statuses,
        failure_codes: code === undefined ? undefined : [code],
        device_ids: deviceId === undefined ? undefined : [deviceId],
        expires_in_hours: isExpired ? HOURS_AFTER_EXPIRY : undefined,
    };
    const which =
        code === undefined ? " that failed" : ` that failed ${code ? `with ${code}` : "without a code"}`;
    const who = deviceId === undefined ? counted(devices, "device") + which : deviceId;
    const later = [
        job.status === "PAUSED" ? " Nothing starts before the job is resumed." : "",
        isExpired ? ` The job has expired: it gets ${HOURS_AFTER_EXPIRY} more hours.` : "",
    ].join("");
    return {
        title: `Retry ${deviceId ?? counted(devices, "device")} in ${job.job_id}?`,
        children: `${who} will get another attempt.${later}`,
        action: `Retry ${counted(devices, "device")}`,
        outcome: `${who} will get another attempt${job.status === "PAUSED" ? ", after the job is resumed" : ""}.`,
        ...call(
            job,
            done,
            ["retry", job.job_id],
            () => [
                ...option("--status", ...statuses),
                ...(code === undefined ? [] : withValues("--failure-code", [code])),
                ...option("--device", deviceId),
                ...option("--expires-in-hours", request.expires_in_hours),
            ],
            () => post(path(job, ":retry"), request),
        ),
    };
}

/** Fields of a job that differ, as UpdateJob names them, and their values. */
export interface Changes {
    mask: string[];
    fields: {
        description?: string;
        labels?: Record<string, string>;
        expires_at?: string;
        start_at?: string;
        in_progress_timeout_minutes?: number;
        rollout?: { stages?: unknown; max_in_progress?: number };
        failure_criteria?: unknown;
        start_windows?: unknown;
        window_time_zone?: string;
        retry_policy?: unknown;
    };
}

const settingWords: Record<string, string> = {
    description: "the description",
    labels: "the labels",
    expires_at: "the expiry",
    start_at: "the start",
    in_progress_timeout_minutes: "the timeout",
    "rollout.stages": "the stages",
    "rollout.max_in_progress": "the maximum of devices in progress",
    failure_criteria: "the failure criteria",
    start_windows: "the start windows",
    window_time_zone: "the time zone of the windows",
    retry_policy: "the retries",
};

export function changeSettings(job: Job, changes: Changes, done: Done): Question {
    const { mask, fields } = changes;
    const request = { update_mask: mask.join(), ...fields };
    const { failure_criteria, start_windows, window_time_zone, retry_policy } = fields;
    const { stages, max_in_progress } = fields.rollout ?? {};
    const labels = labelOptions(fields.labels);
    const options = [
        ...(mask.includes("description") ? withValues("--description", [fields.description ?? ""]) : []),
        ...(mask.includes("labels") ? (labels.length ? labels : ["--no-labels"]) : []),
        ...option("--expires-at", fields.expires_at),
        ...option("--start-at", fields.start_at),
        ...option("--in-progress-timeout", fields.in_progress_timeout_minutes),
        ...option("--max-in-progress", max_in_progress),
    ];
    const rollout = stages === undefined ? undefined : { stages };
    const file = { rollout, failure_criteria, start_windows, window_time_zone, retry_policy };
    const input = withInput(options, "--rollout", file);
    const patch = { method: "PATCH", path: path(job), body: request };
    const same = command(["update", job.job_id], input.options, patch, input.text);
    // No option of jobs-grpc clears these.
    const values: Record<string, unknown> = {
        ...fields,
        "rollout.stages": stages,
        "rollout.max_in_progress": max_in_progress,
    };
    const clears = mask.some(
        (name) => values[name] === undefined && name !== "description" && name !== "labels",
    );
    return {
        title: `Change ${job.job_id}?`,
        children: `This changes ${mask.map((path) => settingWords[path] ?? path).join(", ")}.`,
        action: "Save changes",
        job,
        command: clears ? { curl: same.curl } : same,
        run: async () => {
            await send({ ...patch, body: { ...request, etag: job.etag } });
            await done();
        },
    };
}
