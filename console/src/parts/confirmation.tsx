/** Says what the last action has done, or why it failed after its dialog was closed, until the person goes to another page or acts again. */

import { signal } from "@preact/signals";
import { useLocation } from "preact-iso";
import { shown } from "../format";
import { jobPath } from "../query";

export interface Outcome {
    /** What was done, such as "Approved: Rest opens (300 devices)". */
    text: string;
    failed?: boolean;
    jobId: string | undefined;
}

export const confirmation = signal<Outcome | null>(null);

export function Confirmation() {
    const { path } = useLocation();
    const outcome = confirmation.value;
    const jobId = outcome?.jobId;
    return (
        // Present before its text changes: a screen reader reads only changes.
        <div role="status">
            {outcome && (
                <p class={`notice ${outcome.failed ? "warn" : "good"}`}>
                    <span>
                        {shown(outcome.text)}{" "}
                        {jobId && path !== jobPath(jobId) && <a href={jobPath(jobId)}>{shown(jobId)}</a>}
                    </span>
                    <button class="small" onClick={() => (confirmation.value = null)}>
                        Close
                    </button>
                </p>
            )}
        </div>
    );
}
