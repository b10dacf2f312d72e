/** The approval or the rejection of the start of a job, or of its open stage. */

import { useState } from "preact/hooks";
import * as actions from "../actions";
import type { Job } from "../api/client";
import { may } from "../session";
import { allows, whyNotApprove } from "../waits";
import type { Question } from "./dialog";

// As in ApproveStageRequest, ApproveStartRequest and those of rejections.
const MAX_COMMENT = 200;

/**
 * What the caller can do about the start, or else about a stage that waits for an approval (-1: none does): the field
 * for a comment, if there is any button; the buttons; and why the caller can't approve.
 */
export function useApproval(
    job: Job,
    stage: number,
    ask: (question: Question) => void,
    done: () => void | Promise<void>,
) {
    const [text, setText] = useState("");
    const isStart = allows(job, "APPROVE_START");
    const waits = isStart ? may("ApproveStart") : stage >= 0 && may("ApproveStage");
    const problem = waits ? whyNotApprove(job, stage) : "";
    const mayApprove = waits && !problem;
    const mayReject = isStart
        ? may("RejectStart")
        : stage >= 0 && job.status !== "PAUSED" && actions.canReject(job);
    const reject = () =>
        isStart ? actions.rejectStart(job, text.trim(), done) : actions.reject(job, stage, text.trim(), done);
    const approve = () =>
        isStart
            ? actions.approveStart(job, text.trim(), done)
            : actions.approve(job, stage, text.trim(), done);
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
            {mayReject && <button onClick={() => ask(reject())}>Reject{isStart && " start"}…</button>}
            {mayApprove && (
                <button class="primary" onClick={() => ask(approve())}>
                    Approve{isStart && " start"}…
                </button>
            )}
        </>
    );
    return { problem, comment, buttons };
}
