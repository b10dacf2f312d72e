/** The tenant's events as they happen, by type and job; and its webhooks. */

import { useEffect, useState } from "preact/hooks";
import { ApiError, type Event } from "../api/client";
import { readStream } from "../api/stream";
import { shown } from "../format";
import { noteOutcome } from "../load";
import { ErrorNotice } from "../parts/notices";
import { Webhooks } from "../parts/webhooks";
import { Time } from "../parts/time";
import { jobPath, search, useQuery } from "../query";
import { may } from "../session";
import { event, eventTone } from "../words";

// The newest that the page keeps.
const KEPT = 500;
const DAY_MS = 86_400_000;

export const eventTypes = [
    "job.created",
    "job.stage_opened",
    "job.awaiting_approval",
    "job.approved",
    "job.tripped",
    "job.paused",
    "job.resumed",
    "job.updated",
    "job.retried",
    "job.canceled",
    "job.expired",
    "job.completed",
    "job.deleted",
    "executions.finished",
];

function useFeed(type: string, jobId: string) {
    const [events, setEvents] = useState<Event[]>([]);
    const [error, setError] = useState<ApiError | null>(null);
    useEffect(() => {
        const controller = new AbortController();
        setEvents([]);
        setError(null);
        const from = new Date(Date.now() - DAY_MS).toISOString();
        readStream(
            `/customer/events:watch${search({ from_time: from, types: type, job_id: jobId })}`,
            controller.signal,
            ({ type: name, data }) => {
                if (name === "heartbeat") return;
                const e = JSON.parse(data) as Event;
                setEvents((known) => [e, ...known].slice(0, KEPT));
            },
            noteOutcome,
        ).catch((e: ApiError) => {
            if (!controller.signal.aborted) setError(e);
        });
        return () => controller.abort();
    }, [type, jobId]);
    return { events, error };
}

export function Events() {
    const [query, setQuery] = useQuery();
    const { events, error } = useFeed(query.type ?? "", query.job ?? "");
    const submit = (e: SubmitEvent) => {
        e.preventDefault();
        setQuery({ job: String(new FormData(e.currentTarget as HTMLFormElement).get("job")).trim() });
    };
    return (
        <>
            <div class="heading">
                <h1>Events</h1>
            </div>
            <form class="filters" onSubmit={submit} key={JSON.stringify(query)} role="search">
                <label>
                    Type
                    <select
                        value={query.type ?? ""}
                        onChange={(e) => setQuery({ type: e.currentTarget.value })}
                    >
                        <option value="">all</option>
                        {eventTypes.map((type) => (
                            <option key={type}>{type}</option>
                        ))}
                    </select>
                </label>
                <label>
                    Job
                    <input name="job" defaultValue={query.job ?? ""} autocomplete="off" spellcheck={false} />
                </label>
                <button>Filter</button>
            </form>
            {error && <ErrorNotice error={error} />}
            <section class="card" aria-label="Events of the last day and new ones">
                {!events.length && <p class="pad quiet">No events in the last day. New ones appear here.</p>}
                <ol class="timeline pad">
                    {events.map((e) => (
                        <li key={e.position}>
                            <span class={`dot ${eventTone(e)}`} aria-hidden="true" />
                            <span class="quiet">
                                <Time at={e.time} />
                            </span>{" "}
                            <a href={jobPath(e.job_id)}>{shown(e.job_id)}</a> {event(e)}
                        </li>
                    ))}
                </ol>
            </section>
            {may("EventService.ListWebhooks") && <Webhooks />}
        </>
    );
}
