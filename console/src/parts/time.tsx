/** Times, relative to now, with the absolute time on hover and for copying. */

import { signal } from "@preact/signals";
import { absolute, relative } from "../format";

/** The current time in milliseconds, updated each second while the page is visible. */
export const now = signal(Date.now());
setInterval(() => {
    if (!document.hidden) now.value = Date.now();
}, 1000);

// The clock of the browser can be wrong: times are relative to that of the service, from its responses.
export const clockOffset = signal(0);

export function noteServerTime(response: Response): void {
    const date = Date.parse(response.headers.get("Date") ?? "");
    // A Date header has whole seconds.
    if (date && Math.abs(date - Date.now()) > 3000) clockOffset.value = date - Date.now();
    else clockOffset.value = 0;
}

export function serverNow(): number {
    return now.value + clockOffset.value;
}

/** Whether times are absolute: the person can switch, because a phone has no hover. */
export const exact = signal(false);

/** A time as the person wants to read it. */
export function ago(time: string): string {
    return exact.value ? absolute(Date.parse(time)) : relative(Date.parse(time), serverNow());
}

export function Time({ at }: { at: string | null | undefined }) {
    if (!at) return <span>–</span>;
    return (
        <time dateTime={at} title={absolute(Date.parse(at))}>
            {ago(at)}
        </time>
    );
}

/** Names the zone, and switches between relative and absolute times. */
export function Footer() {
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    return (
        <footer class="quiet">
            Times in {zone}{" "}
            <button class="link" onClick={() => (exact.value = !exact.value)}>
                {exact.value ? "Show relative times" : "Show exact times"}
            </button>
        </footer>
    );
}
