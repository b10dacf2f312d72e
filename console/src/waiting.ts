/** The jobs that wait for an approval: the header reads them, and pages show them. */

import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { api, page, type Job, type Page } from "./api/client";
import { useLoaded } from "./load";
import { may } from "./session";

const POLL_MS = 10_000;
const MAX_WAITING = 50;

/** The jobs, without their stages. null: not read yet. */
export const waiting = signal<Page<Job[]> | null>(null);

/** Keeps `waiting` up to date. */
export function useWaiting() {
    const { data } = useLoaded(
        may("ListJobs") ? "awaiting" : null,
        (signal) =>
            page(
                api.GET("/customer/jobs", {
                    params: { query: { awaiting_approval: true, limit: MAX_WAITING } },
                    signal,
                }),
            ),
        POLL_MS,
    );
    useEffect(() => {
        waiting.value = data ?? null;
    }, [data]);
}
