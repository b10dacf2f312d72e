/** The messages of the REST API, with the types of its OpenAPI document. */

import type { components } from "./schema";

type Schemas = components["schemas"];

/** Messages that can really be absent. The OpenAPI document allows null for each message. */
type Optional =
    | "approval"
    | "forecast"
    | "gate"
    | "job_slots"
    | "pause"
    | "preview"
    | "retry_policy"
    | "rollout"
    | "stage_gate"
    | "status_details"
    | "target_device_ids"
    | "target_failed_in"
    | "trip";

/** A message of a response: those that it always contains are not null. */
export type Filled<T> = T extends (infer U)[]
    ? Filled<NonNullable<U>>[]
    : T extends object
      ? {
            [K in keyof T]: NonNullable<T[K]> extends object
                ? Filled<NonNullable<T[K]>> | (K extends Optional ? Extract<T[K], null> : never)
                : T[K];
        }
      : T;
export type Message<Name extends keyof Schemas> = Filled<NonNullable<Schemas[Name]>>;

export type Job = Message<"Job">;
export type JobWait = Message<"JobWait">;
export type Stage = Message<"Stage">;
export type StartWindow = Message<"StartWindow">;
export type RetryRule = Message<"RetryRule">;
export type Counts = Message<"ExecutionCounts">;
export type Criterion = Message<"FailureCriterion">;
export type CriterionState = Message<"CriterionState">;
export type FailureCount = Message<"FailureCount">;
export type Event = Message<"Event">;
export type Timeline = Message<"GetJobTimelineResponse">;
export type Webhook = Message<"Webhook">;
export type Explanation = Message<"ExplainExecutionResponse">;
export type Execution = Message<"JobExecution">;
export type TargetPreview = Message<"TargetPreview">;
export type Device = Message<"Device">;
export type FleetSummary = Message<"GetFleetSummaryResponse">;
export type FleetLabels = Message<"ListLabelsResponse">;
export type Caller = Message<"GetCallerResponse">;
export type CreateJobRequest = NonNullable<Schemas["CreateJobRequest"]>;
