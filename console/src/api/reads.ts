/** Reads that several pages make. Throw ApiError. */

import { api, body, page } from "./client";

/** A job with its stages and windows, without its executions. */
export function readJob(jobId: string, signal?: AbortSignal) {
    return body(
        api.GET("/customer/jobs/{job_id}", {
            params: { path: { job_id: jobId }, query: { executions_limit: 0 } },
            signal,
        }),
    );
}

/** The newest events of a job, the last one first. */
export function readNewestEvents(jobId: string, limit: number, signal: AbortSignal, pageToken = "") {
    return page(
        api.GET("/customer/jobs/{job_id}/events", {
            params: {
                path: { job_id: jobId },
                query: { newest_first: true, limit, page_token: pageToken || undefined },
            },
            signal,
        }),
    );
}

/** Why a device does not start its execution of a job. */
export function readExplanation(jobId: string, deviceId: string, signal: AbortSignal) {
    return body(
        api.GET("/customer/jobs/{job_id}/executions/{device_id}/explanation", {
            params: { path: { job_id: jobId, device_id: deviceId } },
            signal,
        }),
    );
}
