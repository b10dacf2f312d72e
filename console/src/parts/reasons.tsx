/** Why a device does not start an execution: each reason, and when it ends. */

import type { Explanation } from "../api/client";
import { shown } from "../format";
import { jobPath } from "../query";
import { Time } from "./time";

// What happens at the end of a reason, by its kind.
const endings: Record<string, string> = {
    JOB_SCHEDULED: "It starts",
    NOT_RELEASED: "It is released",
    WINDOW_CLOSED: "The next one opens",
    BACKOFF: "It ends",
};

export function Reasons({ explanation }: { explanation: Explanation }) {
    const { blockers, earliest_start_at: earliest, last_seen_at: seen } = explanation;
    if (!blockers.length) return <p class="quiet">The device has started it.</p>;
    return (
        <ul class="reasons">
            {blockers.map((b) => (
                <li key={b.kind}>
                    {shown(b.message)}
                    {b.other_job_id && (
                        <>
                            {" "}
                            <a href={jobPath(b.other_job_id)}>Show that job</a>
                        </>
                    )}
                    {b.until && (
                        <>
                            {" "}
                            {endings[b.kind] ?? "It ends"} <Time at={b.until} />.
                        </>
                    )}
                    {b.kind === "WAITING_FOR_DEVICE" && (
                        <>
                            {" "}
                            {seen ? (
                                <>
                                    It was last seen <Time at={seen} />.
                                </>
                            ) : (
                                "It has never been seen."
                            )}
                        </>
                    )}
                </li>
            ))}
            {earliest && blockers.length > 1 && (
                <li>
                    It can start <Time at={earliest} /> at the earliest.
                </li>
            )}
        </ul>
    );
}
