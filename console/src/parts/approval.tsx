/** The approval or the rejection of the open stage of a job. */

import { useState } from "preact/hooks";
import * as actions from "../actions";
import type { Job } from "../api/client";
import { may } from "../session";
import { whyNotApprove } from "../waits";
import type { Question } from "./dialog";

// As in ApproveStageRequest and RejectStageRequest.
const MAX_COMMENT = 200;

/**
 * What the caller can do about a stage that waits for an approval (-1: none does): the field for a comment, if there
 * is any button; the buttons; and why the caller can't approve.
 */
export function useApproval(
    job: Job,
    stage: number,
    ask: (question: Question) => void,
    done: () => void | Promise<void>,
) {
    const [text, setText] = useState("");
    const waits = stage >= 0 && may("ApproveStage");
    const problem = waits ? whyNotApprove(job, stage) : "";
    const mayApprove = waits && !problem;
    const mayReject = stage >= 0 && job.status !== "PAUSED" && actions.canReject(job);
    const comment = (mayApprove || mayReject) && (
        <label class="comment">
            Comment
            <input
                value={text}
                maxLength={MAX_COMMENT}
                onInput={(e) => setText(e.currentTarget.value)}
                placeholder="optional"
            />
        </label>
    );
    const buttons = (
        <>
            {mayReject && (
                <button onClick={() => ask(actions.reject(job, stage, text.trim(), done))}>Reject…</button>
            )}
            {mayApprove && (
                <button class="primary" onClick={() => ask(actions.approve(job, stage, text.trim(), done))}>
                    Approve…
                </button>
            )}
        </>
    );
    return { problem, comment, buttons };
}
