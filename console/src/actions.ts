/** What operators do with jobs: the questions that the console asks, and the calls that it makes. */

import { api, body, type Job } from "./api/client";
import { command } from "./commands";
import { count, counted } from "./format";
import type { Question } from "./parts/dialog";
import { may } from "./session";
import { failures, isActive } from "./words";

/** Called after an action; ends when the page shows its result. */
type Done = () => void | Promise<void>;

const path = (job: Job, verb = "") => `/customer/jobs/${encodeURIComponent(job.job_id)}${verb}`;
const params = (job: Job) => ({ params: { path: { job_id: job.job_id } } });

function pending(job: Job): number {
    const c = job.execution_counts;
    return c.queued + c.held + c.in_progress;
}

export const canPause = (job: Job) =>
    may("PauseJob") && (job.status === "IN_PROGRESS" || job.status === "SCHEDULED");
export const canResume = (job: Job) => may("ResumeJob") && job.status === "PAUSED";
export const canCancel = (job: Job) => may("CancelJob") && isActive(job);
export const canDelete = (job: Job) =>
    may("DeleteJob") && !isActive(job) && job.execution_counts.in_progress === 0;
export const canAdvance = (job: Job) =>
    may("AdvanceJob") && isActive(job) && (job.stages ?? []).some((stage) => stage.state === "PENDING");
export const canRetry = (job: Job) => may("RetryExecutions") && failures(job.execution_counts) > 0;

export function pause(job: Job, done: Done): Question {
    const c = job.execution_counts;
    return {
        title: `Pause ${job.job_id}?`,
        children: `${counted(c.queued + c.held, "device")} will not start until you resume it. ${counted(c.in_progress, "device")} that ${c.in_progress === 1 ? "has" : "have"} started will finish.`,
        action: "Pause",
        jobId: job.job_id,
        command: command(["pause", job.job_id], "POST", path(job, ":pause"), {}),
        run: async () => {
            await body(
                api.POST("/customer/jobs/{job_id}:pause", { ...params(job), body: { etag: job.etag } }),
            );
            await done();
        },
    };
}

export function resume(job: Job, done: Done): Question {
    const c = job.execution_counts;
    const forgives =
        job.pause?.cause === "FAILURE_CRITERION"
            ? " The failures counted so far no longer trip the brake."
            : "";
    return {
        title: `Resume ${job.job_id}?`,
        children: `${counted(c.queued + c.held, "device")} can start again, as the stages allow.${forgives}`,
        action: "Resume",
        jobId: job.job_id,
        command: command(["resume", job.job_id], "POST", path(job, ":resume"), {}),
        run: async () => {
            await body(
                api.POST("/customer/jobs/{job_id}:resume", { ...params(job), body: { etag: job.etag } }),
            );
            await done();
        },
    };
}

export function cancel(job: Job, done: Done): Question {
    const c = job.execution_counts;
    const n = c.queued + c.held;
    return {
        title: `Cancel ${job.job_id}?`,
        children: `${counted(n, "device")} will never start. ${counted(c.in_progress, "device")} that ${c.in_progress === 1 ? "has" : "have"} started may finish. This can't be undone.`,
        action: "Cancel job",
        destructive: true,
        devices: pending(job),
        typed: job.job_id,
        command: command(["cancel", job.job_id], "DELETE", path(job), {}),
        run: async () => {
            await body(api.DELETE("/customer/jobs/{job_id}", { ...params(job), body: { etag: job.etag } }));
            await done();
        },
    };
}

export function remove(job: Job, done: Done): Question {
    return {
        title: `Delete ${job.job_id}?`,
        children: `The job and the results of ${counted(job.total_executions, "device")} are removed. This can't be undone.`,
        action: "Delete job",
        destructive: true,
        devices: job.total_executions,
        typed: job.job_id,
        command: command(["delete", job.job_id], "POST", path(job, ":delete"), {}),
        run: async () => {
            await body(
                api.POST("/customer/jobs/{job_id}:delete", { ...params(job), body: { etag: job.etag } }),
            );
            await done();
        },
    };
}

export function advance(job: Job, done: Done): Question {
    const next = (job.stages ?? []).findIndex((stage) => stage.state === "PENDING");
    const size = job.stages?.[next]?.total_executions ?? 0;
    return {
        title: `Open stage ${next} of ${job.job_id} now?`,
        children: `Its ${counted(size, "device")} can start, although the gate before it is not met.`,
        action: "Open stage",
        jobId: job.job_id,
        devices: size,
        command: command(["advance", job.job_id, "--stage", String(next)], "POST", path(job, ":advance"), {
            stage: next,
        }),
        run: async () => {
            await body(
                api.POST("/customer/jobs/{job_id}:advance", {
                    ...params(job),
                    body: { stage: next, etag: job.etag },
                }),
            );
            await done();
        },
    };
}

export function approve(job: Job, stage: number, comment: string, done: Done): Question {
    const next = job.stages?.[stage + 1];
    return {
        title: `Approve stage ${stage} of ${job.job_id}?`,
        children: `Stage ${stage + 1} with ${counted(next?.total_executions ?? 0, "device")} opens.`,
        action: "Approve",
        command: command(
            ["approve", job.job_id, String(stage), comment && "--comment", comment],
            "POST",
            path(job, `/stages/${stage}:approve`),
            { comment },
        ),
        run: async () => {
            await body(
                api.POST("/customer/jobs/{job_id}/stages/{stage}:approve", {
                    params: { path: { job_id: job.job_id, stage } },
                    body: { comment, etag: job.etag },
                }),
            );
            await done();
        },
    };
}

export function retry(
    job: Job,
    failure: { status: "FAILED" | "TIMED_OUT" | "REJECTED"; code: string; devices: number } | null,
    done: Done,
): Question {
    const devices = failure ? failure.devices : failures(job.execution_counts);
    const statuses: ("FAILED" | "TIMED_OUT" | "REJECTED")[] = failure
        ? [failure.status]
        : ["FAILED", "TIMED_OUT", "REJECTED"];
    const request = { statuses, ...(failure?.code ? { failure_codes: [failure.code] } : {}) };
    const which = failure?.code ? ` that failed with ${failure.code}` : " that failed";
    const later = job.status === "PAUSED" ? " They start when the job is resumed." : "";
    return {
        title: `Retry ${count(devices)} in ${job.job_id}?`,
        children: `${counted(devices, "device")}${which} will get another attempt.${later}`,
        action: `Retry ${count(devices)}`,
        command: command(
            [
                "retry",
                job.job_id,
                "--status",
                ...statuses,
                ...(failure?.code ? ["--failure-code", failure.code] : []),
            ],
            "POST",
            path(job, ":retry"),
            request,
        ),
        run: async () => {
            await body(
                api.POST("/customer/jobs/{job_id}:retry", {
                    ...params(job),
                    body: { ...request, etag: job.etag },
                }),
            );
            await done();
        },
    };
}
