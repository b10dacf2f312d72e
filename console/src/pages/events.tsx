/** The tenant's events as they happen, by type, time, job and user; and its webhooks. */

import { useEffect, useState } from "preact/hooks";
import { ApiError, type Event } from "../api/client";
import { readStream } from "../api/stream";
import { serverNow } from "../clock";
import { HOUR_MS, instant, isUtc, localTime, startOfDay } from "../format";
import { noteOutcome } from "../load";
import { FilterField, Filters, Select } from "../parts/fields";
import { EventList } from "../parts/history";
import { ErrorNotice } from "../parts/notices";
import { Tabs } from "../parts/tabs";
import { Webhooks } from "../parts/webhooks";
import { search, useQuery, type Query } from "../query";
import { may } from "../session";
import { useTitle } from "../title";
import { eventType, eventTypes } from "../words";

// The newest that the page keeps.
const KEPT = 500;
// Past events arrive in a burst: they are painted together.
const PAINT_MS = 100;

const times = {
    "1": "in the last hour",
    "24": "in the last day",
    "168": "in the last week",
    today: "today",
    yesterday: "yesterday",
    range: "from … to …",
};
type When = keyof typeof times;

function when(query: Query): When {
    return query.time && query.time in times ? (query.time as When) : "24";
}

/** When the events of the filter begin and end, in milliseconds. */
function period(query: Query): { from: number; to: number } {
    const now = serverNow();
    const today = startOfDay(now);
    const time = when(query);
    if (time === "today") return { from: today, to: Infinity };
    if (time === "yesterday") return { from: startOfDay(today - 1), to: today };
    const [from, to] = [Date.parse(query.from ?? ""), Date.parse(query.to ?? "")];
    if (time === "range") return { from: from || now - 24 * HOUR_MS, to: to || Infinity };
    return { from: now - Number(time) * HOUR_MS, to: Infinity };
}

function useFeed(query: Query) {
    const [events, setEvents] = useState<Event[] | null>(null);
    const [error, setError] = useState<ApiError | null>(null);
    const { type = "", job = "", by = "" } = query;
    useEffect(() => {
        const controller = new AbortController();
        setEvents(null);
        setError(null);
        const { from, to } = period(query);
        let newest: Event[] = [];
        let timer: ReturnType<typeof setTimeout> | undefined;
        const paint = () => {
            timer = undefined;
            setEvents(newest);
        };
        const read = (start: Query) => {
            newest = [];
            return readStream(
                `/customer/events:watch${search({ ...start, types: type, job_id: job })}`,
                controller.signal,
                ({ type: name, data }) => {
                    timer ??= setTimeout(paint, PAINT_MS);
                    if (name === "heartbeat") return;
                    const event = JSON.parse(data) as Event;
                    if (Date.parse(event.time ?? "") >= to) return false;
                    if (!by || event.user_id === by) newest = [event, ...newest].slice(0, KEPT);
                },
                noteOutcome,
            );
        };
        read({ from_time: new Date(from).toISOString() })
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
    }, [type, job, by, query.time, query.from, query.to, isUtc.value]);
    return { events, error };
}

export function Events() {
    useTitle("Events");
    const [query, setQuery] = useQuery();
    const events = { events: "Events" };
    const tabs = may("EventService.ListWebhooks") ? { ...events, webhooks: "Webhooks" } : events;
    const tab = query.tab === "webhooks" && query.tab in tabs ? "webhooks" : "events";
    return (
        <>
            <div class="heading">
                <h1>Events</h1>
            </div>
            <Tabs label="Events" tabs={tabs} tab={tab} choose={(name) => setQuery({ tab: name })}>
                {tab === "webhooks" ? <Webhooks /> : <Feed query={query} setQuery={setQuery} />}
            </Tabs>
        </>
    );
}

function Feed({ query, setQuery }: { query: Query; setQuery: (changes: Query) => void }) {
    const { events, error } = useFeed(query);
    const time = when(query);
    const submit = ({ from = "", to = "", ...texts }: Query) =>
        setQuery({ ...texts, from: stored(from), to: stored(to) });
    return (
        <>
            <Filters class="pad" submit={submit}>
                <Select
                    label="Type"
                    value={query.type ?? ""}
                    set={(type) => setQuery({ type })}
                    options={types}
                />
                <Select label="When" value={time} set={(time) => setQuery({ time })} options={times} />
                {time === "range" && (
                    <>
                        <FilterField
                            name="from"
                            label="From"
                            type="datetime-local"
                            value={input(query.from)}
                        />
                        <FilterField name="to" label="To" type="datetime-local" value={input(query.to)} />
                    </>
                )}
                <FilterField name="job" label="Job" value={query.job} />
                <FilterField name="by" label="By" value={query.by} placeholder="user" />
            </Filters>
            {error && <ErrorNotice error={error} />}
            {events?.length === 0 && (
                <p class="pad quiet">
                    No {query.type || query.job || query.by ? "such " : ""}events{" "}
                    {time === "range" ? "in this time" : times[time]}.
                    {period(query).to === Infinity && " New ones appear here."}
                </p>
            )}
            <EventList events={events ?? []} />
            {events?.length === KEPT && (
                <p class="pad quiet">
                    Only the newest {KEPT} are shown. Narrow the filter to see older events.
                </p>
            )}
        </>
    );
}

const types: Record<string, string> = {
    "": "all",
    ...Object.fromEntries(eventTypes.map((type) => [type, eventType(type)])),
};

/** The text of an input of a time, as the URL has it; "": none. */
function stored(text: string): string {
    const time = instant(text);
    return time ? new Date(time).toISOString() : "";
}

/** A time of the URL, as an input has it. */
function input(time: string | undefined): string {
    return time && Date.parse(time) ? localTime(Date.parse(time)) : "";
}
