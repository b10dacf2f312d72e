/** The events of a job, newest first. */

import { type Event, type Job } from "../api/client";
import { readNewestEvents } from "../api/reads";
import { useLoaded } from "../load";
import { jobPath, search, useQuery } from "../query";
import { event, eventTone } from "../words";
import { showDetails } from "./details";
import { JobLink } from "./links";
import { ErrorNotice } from "./notices";
import { Pager } from "./pager";
import { Time } from "./time";

const PAGE_SIZE = 100;
const LAST = 5;

export function History({ job }: { job: Job }) {
    const [query] = useQuery();
    const { data, error } = useLoaded(
        `${job.job_id} ${query.page ?? ""}`,
        (signal) => readNewestEvents(job.job_id, PAGE_SIZE, signal, query.page),
        0,
        query.page ? "" : job,
    );
    if (error) return <ErrorNotice error={error} />;
    return (
        <>
            <EventList events={data?.items ?? []} job={job} />
            <Pager next={data?.next} label="Pages of the history" />
        </>
    );
}

/** What happened last, beside the numbers that it explains. */
export function LastEvents({ job }: { job: Job }) {
    const { data } = useLoaded(
        `last events of ${job.job_id}`,
        (signal) => readNewestEvents(job.job_id, LAST, signal),
        0,
        job,
    );
    if (!data?.items.length) return null;
    return (
        <section class="card" aria-labelledby="last-events">
            <h2>
                <span id="last-events">Last events</span>
                <a href={jobPath(job.job_id) + search({ tab: "history" })} onClick={showDetails}>
                    Whole history
                </a>
            </h2>
            <EventList events={data.items} job={job} />
        </section>
    );
}

/** Events: those of one job, or of several, each with a link to its own. */
export function EventList({ events, job }: { events: Event[]; job?: Job }) {
    return (
        <ol class="events pad">
            {events.map((e) => (
                <li key={e.position}>
                    <span class={`dot ${eventTone(e)}`} aria-hidden="true" />
                    <span class="quiet">
                        <Time at={e.time} />
                    </span>{" "}
                    {!job && <JobLink id={e.job_id} />} {event(e, job)}
                </li>
            ))}
        </ol>
    );
}
