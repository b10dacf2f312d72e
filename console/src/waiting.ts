/** The jobs that wait for an approval: the header reads them, and pages show them. */

import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { api, page, type Job, type Page } from "./api/client";
import { readJob } from "./api/reads";
import { useLoaded } from "./load";
import { caller, callerKey, may } from "./session";
import { whyNotApprove } from "./waits";
import { awaitingApproval } from "./words";

const POLL_MS = 10_000;
const MAX_WAITING = 50;

/** The jobs, without their stages. null: not read yet. */
export const waiting = signal<Page<Job[]> | null>(null);

/** Those that the caller may approve. */
export const approvable = signal<Job[]>([]);

// Whether the caller may approve its own jobs. An approval changes the etag, and so the next stage is asked about.
let own = new Map<string, boolean>();

async function findApprovable(jobs: Job[], signal: AbortSignal): Promise<Job[]> {
    if (!may("ApproveStage") || !caller.value?.user_id) return [];
    const known = own;
    own = new Map();
    const found: Job[] = [];
    for (const job of jobs) {
        let isAllowed = job.created_by !== caller.value.user_id;
        if (!isAllowed) {
            const key = `${callerKey.value} ${job.job_id} ${job.etag}`;
            const read = known.has(key) ? null : await readJob(job.job_id, signal).catch(() => null);
            isAllowed = read ? !whyNotApprove(read, awaitingApproval(read)) : (known.get(key) ?? false);
            if (read || known.has(key)) own.set(key, isAllowed);
        }
        if (isAllowed) found.push(job);
    }
    return found;
}

/** Keeps `waiting` and `approvable` up to date. */
export function useWaiting() {
    const { data } = useLoaded(
        may("ListJobs") ? "awaiting" : null,
        (signal) =>
            page(
                api.GET("/customer/jobs", {
                    params: { query: { awaiting_approval: true, limit: MAX_WAITING } },
                    signal,
                }),
            ),
        POLL_MS,
    );
    useEffect(() => {
        waiting.value = data ?? null;
        const controller = new AbortController();
        void findApprovable(data?.items ?? [], controller.signal).then((found) => {
            if (!controller.signal.aborted) approvable.value = found;
        });
        return () => controller.abort();
    }, [data]);
}
