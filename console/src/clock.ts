/** The time now, by the clock of the service: that of the browser can be wrong. */

import { signal } from "@preact/signals";

/** The time of the browser in milliseconds, updated each second while the page is visible. */
export const now = signal(Date.now());
setInterval(() => {
    if (!document.hidden) now.value = Date.now();
}, 1000);

// By how much the clock of the service is ahead, in milliseconds.
const offset = signal(0);

// A Date header has whole seconds, and a response takes time.
const MAX_ERROR_MS = 3000;

/** Compares the clocks, by the Date header of a response that has just arrived. */
export function noteServerTime(response: Response): void {
    const ahead = Date.parse(response.headers.get("Date") ?? "") - Date.now();
    if (Math.abs(ahead - offset.value) > MAX_ERROR_MS) offset.value = ahead;
}

/** The time of the service in milliseconds. */
export function serverNow(): number {
    return now.value + offset.value;
}
