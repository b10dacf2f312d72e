/** Says what the last action has done, and which action failed after its dialog was closed. */

import { signal } from "@preact/signals";
import { useLocation } from "preact-iso";
import type { ApiError } from "../api/client";
import { shown } from "../format";
import { jobPath } from "../query";
import { ErrorNotice } from "./notices";

export interface Outcome {
    /** What was done, such as "Approved: Rest opens (300 devices)". */
    text: string;
    /** Absent: it is about no job. */
    jobId: string | undefined;
}

export interface Failure {
    /** Which action failed, such as "“Pause fw-1” failed:". */
    text: string;
    error: ApiError;
}

/** Shown until the person goes to another page or acts again. */
export const confirmation = signal<Outcome | null>(null);
/** Shown until the person closes it. */
export const lateFailure = signal<Failure | null>(null);

export function forget(): void {
    confirmation.value = null;
    lateFailure.value = null;
}

export function Confirmation() {
    const { path } = useLocation();
    const outcome = confirmation.value;
    const failure = lateFailure.value;
    const jobId = outcome?.jobId;
    return (
        <>
            {failure && (
                <ErrorNotice error={failure.error}>
                    <p>
                        {shown(failure.text)}{" "}
                        <button class="small" onClick={() => (lateFailure.value = null)}>
                            Close
                        </button>
                    </p>
                </ErrorNotice>
            )}
            {/* Present before its text changes: a screen reader reads only changes. */}
            <div role="status">
                {outcome && (
                    <p class="notice good">
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
        </>
    );
}
