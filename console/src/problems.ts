/** Maps errors to fields of the job form, in the words of the form. */

import type { ApiError, CreateJobRequest } from "./api/client";
import { DraftError, type CriterionDraft, type Draft, type StageDraft } from "./draft";
import { span } from "./format";
import { config } from "./session";

/** The paths of the fields of a message, such as "rollout.stages[].percent". */
type Paths<T, Path extends string = ""> = T extends string | number | boolean | null
    ? Path
    : T extends (infer U)[]
      ? U extends string
          ? Path
          : Paths<U, `${Path}[]`>
      : string extends keyof T
        ? Path
        : {
              [K in keyof T & string]-?: Paths<NonNullable<T[K]>, Path extends "" ? K : `${Path}.${K}`>;
          }[keyof T & string];

type Field = keyof Draft | `stages.${keyof StageDraft}` | `criteria.${keyof CriterionDraft}` | null;

/** The field of the form, null if it shows none, and the words for it. A field that lacks an entry fails `tsc`. */
const fields: Record<Paths<CreateJobRequest>, [Field, string]> = {
    continuous: [null, "continuous"],
    description: ["description", "description"],
    document_params: ["document", "document parameters"],
    document_type: ["type", "document type"],
    execution_events: [null, "events of executions"],
    expected_target_digest: [null, "digest of the devices"],
    expires_in_hours: ["expiresHours", "expiry in hours"],
    "failure_criteria[].action": ["criteria.action", "action"],
    "failure_criteria[].basis": [null, "basis of the percentage"],
    "failure_criteria[].count": ["criteria.value", "threshold"],
    "failure_criteria[].failure_codes": ["criteria.codes", "failure codes"],
    "failure_criteria[].min_finished": ["criteria.minFinished", "number of finished devices"],
    "failure_criteria[].percent": ["criteria.value", "threshold"],
    "failure_criteria[].scope": ["criteria.scope", "scope"],
    "failure_criteria[].statuses": [null, "statuses"],
    in_progress_timeout_minutes: ["timeoutMinutes", "timeout in minutes"],
    job_id: ["jobId", "job ID"],
    labels: ["labels", "list of labels"],
    max_joins_per_hour: ["maxJoins", "maximum joins per hour"],
    priority: ["priority", "priority"],
    replaces_job_id: ["replaces", "job to replace"],
    "retry_policy.rules[].backoff_multiplier": [null, "factor of the delay before a retry"],
    "retry_policy.rules[].failure_codes": ["retryCodes", "failure codes to retry"],
    "retry_policy.rules[].initial_backoff": [null, "first delay before a retry"],
    "retry_policy.rules[].max_attempts": ["retryAttempts", "attempts per device"],
    "retry_policy.rules[].max_backoff": [null, "longest delay before a retry"],
    "retry_policy.rules[].statuses": [null, "statuses to retry"],
    "rollout.max_in_progress": ["maxInProgress", "maximum devices in progress"],
    "rollout.seed": [null, "order of the devices"],
    "rollout.stages[].allow_empty": [null, "“may be empty”"],
    "rollout.stages[].device_count": ["stages.value", "number"],
    "rollout.stages[].display_name": ["stages.name", "name"],
    "rollout.stages[].gate.advance_after": ["stages.latestHours", "“open anyway after”"],
    "rollout.stages[].gate.allow_self_approval": [null, "approval by the creator"],
    "rollout.stages[].gate.bake_time": ["stages.bakeMinutes", "“then wait”"],
    "rollout.stages[].gate.min_succeeded_percent": ["stages.succeeded", "succeeded percentage"],
    "rollout.stages[].gate.require_approval": ["stages.approval", "approval"],
    "rollout.stages[].group_id": ["stages.value", "group"],
    "rollout.stages[].percent": ["stages.value", "percent"],
    "rollout.stages[].releases_per_minute": ["stages.perMinute", "starts per minute"],
    "rollout.stages[].remainder": ["stages.kind", "“the rest”"],
    "rollout.stages[].selector": ["stages.value", "selector"],
    require_start_approval: [null, "approval of the start"],
    start_at: ["startAt", "start"],
    "start_windows[].days": ["windowDays", "days of the window"],
    "start_windows[].duration": ["windowHours", "length of the window"],
    "start_windows[].start_time": ["windowStart", "start of the window"],
    target_all: ["target", "devices"],
    target_device_id: ["target", "device"],
    "target_device_ids.device_ids": ["target", "device IDs"],
    "target_failed_in.failure_codes": [null, "failure codes of the other job"],
    "target_failed_in.job_id": [null, "other job"],
    "target_failed_in.selector": [null, "selector"],
    "target_failed_in.statuses": [null, "statuses in the other job"],
    target_group_id: ["target", "group"],
    target_selector: ["target", "selector"],
    validate_only: [null, "check"],
    window_time_zone: ["windowZone", "time zone of the window"],
};

// Errors that name no field.
const fieldsOfReasons: Record<string, Field> = {
    DEVICE_NOT_FOUND: "target",
    EXPIRY_TOO_EARLY: "expiresHours",
    GROUP_EMPTY: "target",
    JOB_ALREADY_EXISTS: "jobId",
    JOB_NOT_FOUND: "replaces",
    TARGET_EMPTY: "target",
    TENANT_EMPTY: "target",
};

/** The texts of problems by fields, such as "jobId" or "stages.0.value"; "": those of no field. */
export type Problems = Record<string, string>;

export function problemsOf(error: ApiError | DraftError | null | undefined, draft: Draft): Problems {
    if (!error) return {};
    if (error instanceof DraftError) return { [error.field]: error.message };
    if (error.reason === "SUBJECT_REQUIRED" && config.value?.choose_caller) {
        return { "": "To require an approval, set your user name: see the header." };
    }
    if (!error.violations.length) return { [fieldsOfReasons[error.reason] ?? ""]: error.message };
    const found: Problems = {};
    for (const { field, description } of error.violations) {
        const [key, words] = placeOf(field, draft);
        const text = description
            .replace(field, words)
            .replace(/(\d+)–(\d+) whole seconds/, (_, low, high) => `from ${span(low)} to ${span(high)}`);
        const sentence = text.charAt(0).toUpperCase() + text.slice(1);
        found[key] = key in found ? `${found[key]}. ${sentence}` : sentence;
    }
    return found;
}

/** The field of the form for a path of a violation, and its words, such as "stage canary: percent". */
function placeOf(path: string, draft: Draft): [string, string] {
    const index = Number(/\[(\d+)\]/.exec(path)?.[1] ?? 0);
    const plain = path.replace(/\[\d+\]/g, "[]").replace(/\[".*/, "");
    const isStage = plain.startsWith("rollout.stages[]");
    const isCriterion = plain.startsWith("failure_criteria[]");
    // An element of a list of texts has the entry of the list.
    const [field, name] = fields[plain.replace(/\[\]$/, "") as keyof typeof fields] ?? [null, ""];
    const part = isStage ? `stage ${draft.stages[index]?.name || index}` : `criterion ${index + 1}`;
    const words = isStage || isCriterion ? [part, name].filter(Boolean).join(": ") : name || path;
    // The form shows one window and one retry rule.
    const isShown = isStage || isCriterion || index === 0 || field === "target";
    return [(isShown && field?.replace(".", `.${index}.`)) || "", words];
}
