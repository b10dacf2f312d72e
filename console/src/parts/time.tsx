/** Times, relative to now, with the absolute time on hover and for copying. */

import { signal } from "@preact/signals";
import { serverNow } from "../clock";
import { absolute, chooseUtc, isUtc, relative } from "../format";
import { Shortcuts } from "./shortcuts";

/** Whether times are absolute: the person can switch, because a phone has no hover. */
export const exact = signal(false);

/** A time as the person wants to read it. */
export function ago(time: string): string {
    return exact.value ? absolute(Date.parse(time)) : relative(Date.parse(time), serverNow());
}

export function Time({ at, none = "–" }: { at: string | null | undefined; none?: string }) {
    if (!at) return <span>{none}</span>;
    return (
        <time dateTime={at} title={absolute(Date.parse(at))}>
            {ago(at)}
        </time>
    );
}

/** Names the zone, chooses it, and switches between relative and absolute times. */
export function Footer() {
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    return (
        <footer class="quiet">
            Times in {isUtc.value ? "UTC" : zone}{" "}
            {zone !== "UTC" && (
                <button class="link" onClick={() => chooseUtc(!isUtc.value)}>
                    {isUtc.value ? `Use ${zone}` : "Use UTC"}
                </button>
            )}{" "}
            <button class="link" onClick={() => (exact.value = !exact.value)}>
                {exact.value ? "Show relative times" : "Show exact times"}
            </button>{" "}
            <Shortcuts />
        </footer>
    );
}
