/** The events of a job, newest first. */

import { type Event, type Job } from "../api/client";
import { readNewestEvents } from "../api/reads";
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
        (signal) => readNewestEvents(job.job_id, SHOWN, signal),
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
