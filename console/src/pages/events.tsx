/** The tenant's events as they happen, by type and job; and its webhooks. */

import { useEffect, useState } from "preact/hooks";
import { ApiError, type Event } from "../api/client";
import { readStream } from "../api/stream";
import { serverNow } from "../clock";
import { HOUR_MS } from "../format";
import { noteOutcome } from "../load";
import { FilterField, Select, submitted } from "../parts/fields";
import { Timeline } from "../parts/history";
import { ErrorNotice } from "../parts/notices";
import { Webhooks } from "../parts/webhooks";
import { search, useQuery, type Query } from "../query";
import { may } from "../session";
import { useTitle } from "../title";
import { eventTypes } from "../words";

// The newest that the page keeps.
const KEPT = 500;
// Past events arrive in a burst: they are painted together.
const PAINT_MS = 100;

const ages = { "1": "the last hour", "24": "the last day", "168": "the last week" };
type Hours = keyof typeof ages;

function useFeed(type: string, jobId: string, hours: Hours) {
    const [events, setEvents] = useState<Event[] | null>(null);
    const [error, setError] = useState<ApiError | null>(null);
    useEffect(() => {
        const controller = new AbortController();
        setEvents(null);
        setError(null);
        let newest: Event[] = [];
        let timer: ReturnType<typeof setTimeout> | undefined;
        const paint = () => {
            timer = undefined;
            setEvents(newest);
        };
        const read = (start: Query) => {
            newest = [];
            return readStream(
                `/customer/events:watch${search({ ...start, types: type, job_id: jobId })}`,
                controller.signal,
                ({ type: name, data }) => {
                    if (name !== "heartbeat") newest = [JSON.parse(data) as Event, ...newest].slice(0, KEPT);
                    timer ??= setTimeout(paint, PAINT_MS);
                },
                noteOutcome,
            );
        };
        const from = new Date(serverNow() - Number(hours) * HOUR_MS).toISOString();
        read({ from_time: from })
            .catch((e: ApiError) => {
                // Those of the whole time are no longer stored: begin with the oldest event.
                if (e.reason !== "EVENTS_PURGED") throw e;
                return read({ after_position: "0" });
            })
            .catch((e: ApiError) => {
                if (!controller.signal.aborted) setError(e);
            });
        return () => {
            controller.abort();
            clearTimeout(timer);
        };
    }, [type, jobId, hours]);
    return { events, error };
}

export function Events() {
    useTitle("Events");
    const [query, setQuery] = useQuery();
    const hours = query.hours && query.hours in ages ? (query.hours as Hours) : "24";
    const { events, error } = useFeed(query.type ?? "", query.job ?? "", hours);
    const submit = (e: SubmitEvent) => {
        const { job = "" } = submitted(e);
        setQuery({ job });
    };
    return (
        <>
            <div class="heading">
                <h1>Events</h1>
            </div>
            <form class="filters" onSubmit={submit} role="search">
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
                <Select
                    label="Since"
                    value={hours}
                    set={(value) => setQuery({ hours: value })}
                    options={ages}
                />
                <FilterField name="job" label="Job" value={query.job} />
                <button>Filter</button>
            </form>
            {error && <ErrorNotice error={error} />}
            <section class="card" aria-label="Past events and new ones">
                {events?.length === 0 && (
                    <p class="pad quiet">No such events in {ages[hours]}. New ones appear here.</p>
                )}
                <Timeline events={events ?? []} />
                {events?.length === KEPT && (
                    <p class="pad quiet">
                        Only the newest {KEPT} are shown. Narrow the filter to see older events.
                    </p>
                )}
            </section>
            {may("EventService.ListWebhooks") && <Webhooks />}
        </>
    );
}
