/** What a job waits for, in the words of the service, and what its state allows. */

import type { Job, JobWait } from "./api/client";
import { shown } from "./format";
import { ago } from "./parts/time";
import { caller } from "./session";

// What happens at the end of a wait, by its kind.
const endings: Record<string, string> = {
    START: "It starts",
    START_WINDOW: "The next one opens",
    ADVANCE_AFTER: "The wait ends",
    BAKE_TIME: "It ends",
};

/** The message of a wait, and when it ends if that is known. */
export function waitText(wait: JobWait): string {
    return (
        shown(wait.message) + (wait.until ? ` ${endings[wait.kind] ?? "It ends"} ${ago(wait.until)}.` : "")
    );
}

/** What the gate of the open stage waits for; "": nothing, or another stage is open. */
export function gateText(job: Job, stage: number): string {
    return (job.waits_for ?? [])
        .filter((wait) => wait.stage === stage)
        .map(waitText)
        .join(" ");
}

/** Whether the state of the job allows an action. ListJobs does not return them. */
export function allows(job: Job, action: NonNullable<Job["possible_actions"]>[number]): boolean {
    return (job.possible_actions ?? []).includes(action);
}

/** Why the caller can't approve a stage although its roles allow it; "": it can. */
export function whyNotApprove(job: Job, stage: number): string {
    const user = caller.value?.user_id;
    if (!user) return "An approval needs a user name.";
    if (user !== job.created_by || job.rollout?.stages[stage]?.gate?.allow_self_approval) return "";
    return "You can't approve it: you created the job.";
}
