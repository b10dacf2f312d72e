/** Why a device does not start an execution: each reason, and when it ends. */

import type { Explanation, Job } from "../api/client";
import { shown } from "../format";
import { jobPath } from "../query";
import { gateText } from "../waits";
import { stageName } from "../words";
import { Time } from "./time";

type Blocker = Explanation["blockers"][number];

// What happens at the end of a reason, by its kind.
const endings: Record<string, string> = {
    JOB_SCHEDULED: "It starts",
    NOT_RELEASED: "It is released",
    WINDOW_CLOSED: "The next one opens",
    BACKOFF: "It ends",
};

/** The reasons; with the job, they name its stages. */
export function Reasons({ explanation, job }: { explanation: Explanation; job?: Job | undefined }) {
    const { blockers, earliest_start_at: earliest, last_seen_at: seen } = explanation;
    if (!blockers.length) return <p class="quiet">The device has started it.</p>;
    const stage = explanation.execution?.stage ?? 0;
    return (
        <ul class="reasons">
            {blockers.map((b) =>
                job && b.stage_gate ? (
                    <li key={b.kind}>
                        {stageName(job, stage)} is not open. {gateText(job, b.stage_gate.open_stage)}
                    </li>
                ) : (
                    <Reason key={b.kind} blocker={b} seen={seen} />
                ),
            )}
            {earliest && blockers.length > 1 && (
                <li>
                    It can start <Time at={earliest} /> at the earliest.
                </li>
            )}
        </ul>
    );
}

function Reason({ blocker: b, seen }: { blocker: Blocker; seen: string | null }) {
    return (
        <li>
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
            {b.kind === "WAITING_FOR_DEVICE" &&
                (seen ? (
                    <>
                        {" "}
                        It was last seen <Time at={seen} />.
                    </>
                ) : (
                    " It has never been seen."
                ))}
        </li>
    );
}
