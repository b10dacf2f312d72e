/** The events of a job, newest first. */

import { api, page, type Event, type Job } from "../api/client";
import { useLoaded } from "../load";
import { event, eventTone } from "../words";
import { ErrorNotice } from "./notices";
import { Time } from "./time";

const SHOWN = 100;

export function History({ job }: { job: Job }) {
    // Each change of the job adds events, and changes its status, etag or stage.
    const opened = (job.stages ?? []).map((stage) => stage.state).join();
    const { data, error } = useLoaded(
        job.job_id,
        (signal) =>
            page(
                api.GET("/customer/jobs/{job_id}/events", {
                    params: { path: { job_id: job.job_id }, query: { newest_first: true, limit: SHOWN } },
                    signal,
                }),
            ),
        10_000,
        `${job.etag} ${job.status} ${opened} ${job.updated_at}`,
    );
    if (error) return <ErrorNotice error={error} />;
    return <Timeline events={data?.items ?? []} />;
}

export function Timeline({ events }: { events: Event[] }) {
    return (
        <ol class="timeline pad">
            {events.map((e) => (
                <li key={e.position}>
                    <span class={`dot ${eventTone(e)}`} aria-hidden="true" />
                    <span class="quiet">
                        <Time at={e.time} />
                    </span>{" "}
                    {event(e)}
                </li>
            ))}
        </ol>
    );
}
