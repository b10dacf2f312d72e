/** A bar of the executions of a job or stage by status. */

import type { Counts } from "../api/client";
import { count } from "../format";
import { failures } from "../words";

interface Props {
    counts: Counts;
    total: number;
    /** The job is canceled: what was rejected is no failure of a device. */
    canceled?: boolean;
    label: string;
}

export function Bar({ counts, total, canceled = false, label }: Props) {
    const parts: [string, number, string][] = [
        ["succeeded", counts.succeeded, "succeeded"],
        ["busy", counts.in_progress, "in progress"],
        ["failed", failures(counts) - (canceled ? counts.rejected : 0), "failed"],
        ["canceled", canceled ? counts.rejected : 0, "canceled or rejected"],
        ["queued", counts.queued, "queued"],
    ];
    const text = [...parts, ["held", counts.held, "held"] as const]
        .filter(([, n]) => n)
        .map(([, n, word]) => `${count(n)} ${word}`)
        .join(", ");
    return (
        <svg
            class="bar"
            role="img"
            aria-label={`${label}: ${text || "no devices"}`}
            viewBox="0 0 1000 10"
            preserveAspectRatio="none"
        >
            <title>{text}</title>
            <rect class="held" width="1000" height="10" />
            {segments(parts, total).map(({ name, x, width }) => (
                <rect key={`${name} ${x}`} class={name} x={x} width={width} height="10" />
            ))}
        </svg>
    );
}

// A part that exists is at least visible: 3 of 1,000.
const MIN_WIDTH = 3;

function segments(parts: [string, number, string][], total: number) {
    let x = 0;
    return parts
        .filter(([, n]) => n > 0)
        .map(([name, n]) => {
            const width = Math.min(Math.max((n / Math.max(total, 1)) * 1000, MIN_WIDTH), 1000 - x);
            const segment = { name, x, width };
            x += width;
            return segment;
        });
}
