/** The jobs that wait for an approval, for the page and the count in the navigation. */

import { api, page } from "./api/client";
import { useLoaded } from "./load";
import { may } from "./session";

const POLL_MS = 10_000;
const MAX_WAITING = 50;

export function useWaiting() {
    return useLoaded(
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
}
