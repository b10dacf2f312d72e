/** When the executions of a job finished: the timeline of the service, continued by the watch of the job. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { Job, Timeline } from "./api/client";
import { api, body } from "./api/client";
import { serverNow } from "./clock";
import { seconds } from "./format";
import { useLoaded } from "./load";
import { failures, isActive } from "./words";

/** How many executions had finished at a time, in milliseconds. */
export interface Point {
    time: number;
    succeeded: number;
    failed: number;
    /** Canceled, or expired before they started. */
    others: number;
}

// The rate covers the last tenth of the time, but at least this many milliseconds.
const RATE_SHARE = 0.1;
const MIN_RATE_MS = 15_000;
const MAX_LIVE_POINTS = 200;

export function ended(point: Point | undefined): number {
    return point ? point.succeeded + point.failed + point.others : 0;
}

/** The timeline, and its points up to now. */
export function useTimeline(job: Job) {
    const counts = job.execution_counts;
    const count = counts.succeeded + failures(counts);
    const last = useRef(count);
    const rejected = useRef(counts.rejected);
    const isExpired = job.expires_at !== null && Date.parse(job.expires_at) <= serverNow();
    const [live, setLive] = useState<{ of?: Timeline; points: Point[] }>({ points: [] });
    const [outdated, setOutdated] = useState(0);
    const { data } = useLoaded(
        `timeline of ${job.job_id}`,
        async (signal) => {
            const params = { path: { job_id: job.job_id } };
            const answer = await body(api.GET("/customer/jobs/{job_id}/timeline", { params, signal }));
            // The response includes the rejections that the watch had reported before the request.
            rejected.current = counts.rejected;
            return answer;
        },
        0,
        // Changes with the marks. The counts do not say which end changed, or why devices were rejected: they rejected
        // the job, were canceled or deleted, or the job expired.
        [
            outdated,
            job.etag,
            job.status,
            counts.rejected,
            isExpired,
            ...(job.stages ?? []).map((stage) => stage.state),
        ].join(),
        true,
    );
    const known = data ? cumulated(data) : [];
    const base = known.at(-1);

    useEffect(() => {
        const points = live.of === data ? live.points : [];
        // Devices were retried, or there are many points: read the timeline again.
        if (count < last.current || points.length > MAX_LIVE_POINTS) setOutdated((n) => n + 1);
        last.current = count;
        if (!data) return;
        const point = {
            time: serverNow(),
            succeeded: counts.succeeded,
            failed: count - counts.succeeded - (base?.others ?? 0),
            others: base?.others ?? 0,
        };
        // The state of the watch can be older than the timeline; and the timeline says how many of the rejected failed.
        if (count <= ended(points.at(-1) ?? base) || counts.rejected > rejected.current) return;
        const bucketOf = (p: Point) => Math.floor(p.time / 1000 / seconds(data.bucket_size));
        setLive({ of: data, points: [...points.filter((p) => bucketOf(p) !== bucketOf(point)), point] });
    }, [data, count, counts.succeeded]);

    return { timeline: data, points: live.of === data ? [...known, ...live.points] : known };
}

function cumulated(timeline: Timeline): Point[] {
    const sum = { succeeded: 0, failed: 0, others: 0 };
    return timeline.buckets.map((bucket) => {
        sum.succeeded += bucket.succeeded_count;
        sum.failed += bucket.failed_count;
        sum.others += bucket.canceled_count + bucket.expired_count;
        return { time: Date.parse(bucket.time ?? ""), ...sum };
    });
}

/** The time from which devices could start to now, or to the end of the job. */
export function range(job: Job, points: Point[]): [number, number] {
    const first = points[0]?.time ?? Infinity;
    const last = points.at(-1)?.time ?? 0;
    const start = Date.parse(job.start_at ?? job.created_at ?? "");
    const end = isActive(job) ? serverNow() : Date.parse(job.completed_at ?? job.updated_at ?? "");
    // A job can be canceled before its start, and devices can report after the cancel.
    return [Math.min(start, first), Math.max(end, last, start + 1000)];
}

/** How many executions have recently finished per second. */
export function rate(points: Point[], [start, end]: [number, number]): number {
    const since = Math.max(end - Math.max(RATE_SHARE * (end - start), MIN_RATE_MS), start);
    const before = points.filter((point) => point.time < since).at(-1);
    return (ended(points.at(-1)) - ended(before)) / Math.max((end - since) / 1000, 1);
}
