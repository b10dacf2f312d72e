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
let own = new Map<string, { etag: string; isAllowed: boolean }>();

async function findApprovable(jobs: Job[], signal: AbortSignal): Promise<Job[]> {
    const user = caller.value?.user_id;
    if (!may("ApproveStage") || !user) return [];
    const next: typeof own = new Map();
    const found: Job[] = [];
    for (const job of jobs) {
        if (job.created_by !== user) {
            found.push(job);
            continue;
        }
        const key = `${callerKey.value} ${job.job_id}`;
        let known = own.get(key);
        if (known?.etag !== job.etag) {
            // After an error, what was known stays, and the next poll reads the job.
            const read = await readJob(job.job_id, signal).catch(() => null);
            if (read) known = { etag: job.etag, isAllowed: !whyNotApprove(read, awaitingApproval(read)) };
        }
        if (known) next.set(key, known);
        if (known?.isAllowed) found.push(job);
    }
    if (!signal.aborted) own = next;
    return found;
}

/** Keeps `waiting` and `approvable` up to date. */
export function useWaiting() {
    const { data } = useLoaded(
        may("ListJobs") ? "awaiting" : null,
        async (signal) => {
            const query = { awaiting_approval: true, limit: MAX_WAITING };
            const jobs = await page(api.GET("/customer/jobs", { params: { query }, signal }));
            return { jobs, approvable: await findApprovable(jobs.items, signal) };
        },
        POLL_MS,
    );
    useEffect(() => {
        waiting.value = data?.jobs ?? null;
        approvable.value = data?.approvable ?? [];
    }, [data]);
}
