/** Loads data for a page: once, again while it is visible, and again after an outage. */

import { signal } from "@preact/signals";
import { useCallback, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "./api/client";

/** Since when the service is away, and what it said. null: it answers. */
export const outage = signal<{ since: number; message: string } | null>(null);

export function noteOutcome(error: ApiError | null): void {
    if (error?.isTemporary) {
        outage.value ??= { since: Date.now(), message: error.message };
    } else if (outage.value) {
        outage.value = null;
    }
}

export interface Loaded<T> {
    data: T | undefined;
    /** The last load failed for good, such as with JOB_NOT_FOUND. */
    error: ApiError | undefined;
    reload: () => void;
}

/** How many actions were taken. Each can change what any part of the page shows. */
const actions = signal(0);

/** Loads all data of the page again, and shows the known data until then. */
export function reloadAll(): void {
    actions.value += 1;
}

const MAX_DELAY_MS = 30_000;
// Retry sooner before the first response: the page is still empty.
const MAX_FIRST_DELAY_MS = 3000;
// What does not change is loaded more rarely, so that consoles that are left open cost little.
const REST_FACTOR = 1.5;
const MAX_REST_MS = 15_000;
// A version that changes with each report of a device must not load more often.
const MIN_VERSION_MS = 5000;
// Consoles that show the same job learn of a change at the same time.
const MAX_SPREAD_MS = 5000;

/**
 * Loads data when `key` changes (null: none), and then every `everyMs` while the page is visible (0: only once), or
 * more rarely while the data stays the same. Loads soon when `version` is another value or object: it tells that there
 * are other data, such as an answer of the watch of a job.
 * Keeps the last data of the same key until others are there, and loads again until the service answers.
 * `hasOwnLimit`: the service limits these calls of all consoles together, so a 429 is no outage, and loads are spread.
 */
export function useLoaded<T>(
    key: string | null,
    load: (signal: AbortSignal) => Promise<T>,
    everyMs = 0,
    version: unknown = "",
    hasOwnLimit = false,
): Loaded<T> {
    const [state, setState] = useState<{ key: string | null; data?: T; error?: ApiError }>({ key });
    const [round, setRound] = useState(0);
    const latest = useRef({ load, version, loadSoon: () => {} });
    latest.current.load = load;

    // An effect after the next frame would let the person wait for that frame.
    useLayoutEffect(() => {
        latest.current.version = version;
        if (key === null) {
            // The same key can return later, such as that of another caller: its data must not.
            setState((last) => (last.key === null ? last : { key }));
            return;
        }
        const controller = new AbortController();
        let timer: ReturnType<typeof setTimeout> | undefined;
        let failures = 0;
        let due = false;
        let isLoading = false;
        let isOutdated = false;
        let startedAt = 0;
        let delay = everyMs;
        let known = "";
        const pause = everyMs ? Math.min(everyMs, MIN_VERSION_MS) : MIN_VERSION_MS;
        const spread = () => (hasOwnLimit ? Math.random() * MAX_SPREAD_MS : 0);
        const soon = () => Math.max(1, startedAt + pause - Date.now()) + spread();
        const run = async () => {
            if (document.hidden) {
                due = true;
                return;
            }
            due = false;
            isLoading = true;
            isOutdated = false;
            startedAt = Date.now();
            let next: number;
            try {
                const data = await latest.current.load(controller.signal);
                if (controller.signal.aborted) return;
                failures = 0;
                noteOutcome(null);
                const text = JSON.stringify(data);
                if (text === known) {
                    delay = Math.max(everyMs, Math.min(delay * REST_FACTOR, MAX_REST_MS));
                } else {
                    delay = everyMs;
                    known = text;
                    setState({ key, data });
                }
                next = delay;
            } catch (error) {
                if (controller.signal.aborted) return;
                const e = error instanceof ApiError ? error : new ApiError(String(error), "", 400);
                // A call that is limited once succeeds soon; the person need not know.
                if (e.status !== 429 || (failures && !hasOwnLimit)) noteOutcome(e);
                next = everyMs;
                if (e.isTemporary) {
                    failures += 1;
                    const longest = known ? MAX_DELAY_MS : MAX_FIRST_DELAY_MS;
                    next = Math.max(e.retryAfter * 1000, Math.min(1000 * 2 ** failures, longest));
                } else {
                    known = "";
                    setState({ key, error: e });
                }
            }
            isLoading = false;
            next *= 0.9 + 0.2 * Math.random();
            if (failures) next += spread();
            if (isOutdated && !failures) next = soon();
            if (next) timer = setTimeout(run, next);
        };
        latest.current.loadSoon = () => {
            // Otherwise, changes that follow each other would put the load off.
            if (isOutdated) return;
            isOutdated = true;
            if (isLoading || due || failures) return;
            clearTimeout(timer);
            timer = setTimeout(run, soon());
        };
        const onVisible = () => {
            if (!document.hidden && due) void run();
        };
        document.addEventListener("visibilitychange", onVisible);
        void run();
        return () => {
            controller.abort();
            clearTimeout(timer);
            latest.current.loadSoon = () => {};
            document.removeEventListener("visibilitychange", onVisible);
        };
    }, [key, everyMs, round, actions.value]);

    useLayoutEffect(() => {
        if (latest.current.version === version) return;
        latest.current.version = version;
        latest.current.loadSoon();
    }, [version]);

    const reload = useCallback(() => setRound((n) => n + 1), []);
    const current = state.key === key;
    return { data: current ? state.data : undefined, error: current ? state.error : undefined, reload };
}
