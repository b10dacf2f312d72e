/** When the start windows of a job open: only GetJob tells. */

import type { Job } from "./api/client";
import { readJob } from "./api/reads";
import { serverNow } from "./clock";
import { useLoaded } from "./load";
import { isActive } from "./words";

const POLL_MS = 60_000;

/** Whether a window is open, and when the next one opens. null: it has none, or each device has its own. */
export function useOpenings(job: Job): { isOpen: boolean; next: string | null } | null {
    const needed = isActive(job) && (job.start_windows ?? []).length > 0 && job.window_time_zone !== "DEVICE";
    const { data } = useLoaded(
        needed ? `openings ${job.job_id}` : null,
        (signal) => readJob(job.job_id, signal),
        POLL_MS,
        job.etag,
    );
    if (!data) return null;
    const next = data.next_openings?.[0] ?? null;
    const hasOpened = next !== null && Date.parse(next) <= serverNow();
    return { isOpen: data.window_open === true || hasOpened, next };
}
