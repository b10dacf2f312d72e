/** The form of a new job: its fields, and the request that they make. */

import type { CreateJobRequest, Criterion, Job, RetryRule, StartWindow, TargetPreview } from "./api/client";
import { count, counted, seconds, shown, span } from "./format";

export type TargetKind = "all" | "group" | "selector" | "device" | "list";

export interface StageDraft {
    name: string;
    kind: "percent" | "count" | "group" | "selector" | "rest";
    value: string;
    /** What opens the next stage. */
    succeeded: string;
    bakeMinutes: string;
    /** The next stage opens after this time even if the rest is not met. */
    latestHours: string;
    approval: boolean;
    perMinute: string;
    /** What a copied stage has besides: the form does not show it. */
    more?: { allow_empty?: boolean; allow_self_approval?: boolean };
}

export interface CriterionDraft {
    kind: "percent" | "count";
    value: string;
    /** Separated by spaces; "": any failure. */
    codes: string;
    scope: "JOB" | "STAGE";
    minFinished: string;
    action: "PAUSE" | "CANCEL" | "FORCE_CANCEL";
    more?: Pick<Criterion, "statuses" | "basis">;
}

export interface Draft {
    jobId: string;
    /** The ID of the job that the new one replaces. */
    replaces: string;
    description: string;
    /** One key=value per line: a value can contain spaces and commas. */
    labels: string;
    type: string;
    document: string;
    targetKind: TargetKind;
    target: string;
    /** Devices that match later join the job. */
    continuous: boolean;
    maxJoins: string;
    stages: StageDraft[];
    maxInProgress: string;
    criteria: CriterionDraft[];
    startAt: string;
    windowDays: string[];
    windowStart: string;
    windowHours: string;
    windowZone: string;
    retryAttempts: string;
    retryCodes: string;
    expiresHours: string;
    timeoutMinutes: string;
    priority: "LOW" | "NORMAL" | "HIGH";
    /** Another user must approve before the first device starts. */
    startApproval: boolean;
    /** What a copied job has besides: the form does not show it. */
    more: {
        windows: StartWindow[];
        /** The rest of the first retry rule, and the other rules. */
        rule?: Partial<RetryRule>;
        rules: RetryRule[];
        seed?: string;
        execution_events?: boolean;
    };
}

export const emptyStage: StageDraft = {
    name: "",
    kind: "percent",
    value: "1",
    succeeded: "95",
    bakeMinutes: "",
    latestHours: "",
    approval: false,
    perMinute: "",
};

export const emptyCriterion: CriterionDraft = {
    kind: "percent",
    value: "5",
    codes: "",
    scope: "JOB",
    minFinished: "20",
    action: "PAUSE",
};

// Defaults that do no harm when they are left alone: the criterion stops a bad release.
export const emptyDraft: Draft = {
    jobId: "",
    replaces: "",
    description: "",
    labels: "",
    type: "",
    document: "{}",
    targetKind: "group",
    target: "",
    continuous: false,
    maxJoins: "",
    stages: [],
    maxInProgress: "",
    criteria: [emptyCriterion],
    startAt: "",
    windowDays: [],
    windowStart: "",
    windowHours: "6",
    windowZone: "UTC",
    retryAttempts: "",
    retryCodes: "",
    expiresHours: "",
    timeoutMinutes: "",
    priority: "NORMAL",
    startApproval: false,
    more: { windows: [], rules: [] },
};

/** A value that can't be sent, and why; `field`: as in Problems. */
export class DraftError extends Error {
    constructor(
        message: string,
        readonly field = "",
    ) {
        super(message);
    }
}

type Target = Pick<
    CreateJobRequest,
    "target_all" | "target_group_id" | "target_selector" | "target_device_id" | "target_device_ids"
>;

function splitList(text: string, separator = /[\s,]/): string[] {
    const parts = text.split(separator).map((part) => part.trim());
    return [...new Set(parts.filter(Boolean))];
}

/** The target, or null while it is empty. */
export function draftTarget(draft: Draft): Target | null {
    const text = draft.target.trim();
    if (draft.targetKind === "all") return { target_all: true };
    if (!text) return null;
    switch (draft.targetKind) {
        case "group":
            return { target_group_id: text };
        case "selector":
            return { target_selector: text };
        case "device":
            return { target_device_id: text };
        default:
            // An ID can contain spaces.
            return { target_device_ids: { device_ids: splitList(text, /[\n,]/) } };
    }
}

/** Whether devices can join a job with this target later. */
export function canBeContinuous(draft: Draft): boolean {
    return ["all", "group", "selector"].includes(draft.targetKind);
}

function integer(text: string, label: string, field: string): number | undefined {
    if (!text.trim()) return undefined;
    const n = Number(text);
    if (!Number.isInteger(n) || n < 0) throw new DraftError(`${label} must be a whole number`, field);
    return n;
}

/** A length of time in minutes or hours, as the API has it. */
function duration(text: string, unit: number, label: string, field: string): string | undefined {
    if (!text.trim()) return undefined;
    const length = Math.round(Number(text) * unit);
    if (!(length >= 0)) throw new DraftError(`${label} must be a number`, field);
    return length ? `${length}s` : undefined;
}

export function draftRollout(draft: Draft): CreateJobRequest["rollout"] | undefined {
    const maxInProgress = integer(draft.maxInProgress, "“Maximum devices in progress”", "maxInProgress");
    if (!draft.stages.length && !maxInProgress) return undefined;
    const drafts = draft.stages.length ? draft.stages : [{ ...emptyStage, kind: "rest" as const }];
    const stages = drafts.map((stage, index) => {
        const isLast = index === drafts.length - 1;
        const label = stageLabel(stage, index);
        type Numeric = "value" | "succeeded" | "perMinute" | "bakeMinutes" | "latestHours";
        const place = (key: Numeric, name: string) =>
            [`${label}: ${name}`, `stages.${index}.${key}`] as const;
        const whole = (key: Numeric, name: string) => integer(stage[key], ...place(key, name));
        const time = (key: Numeric, unit: number, name: string) =>
            duration(stage[key], unit, ...place(key, name));
        const number = () => whole("value", "the size");
        const devices = {
            percent: () => ({ percent: number() }),
            count: () => ({ device_count: number() }),
            group: () => ({ group_id: stage.value.trim() }),
            selector: () => ({ selector: stage.value.trim() }),
            rest: () => ({ remainder: true }),
        }[stage.kind]();
        const gate = {
            min_succeeded_percent: whole("succeeded", "“Succeeded, at least”"),
            bake_time: time("bakeMinutes", 60, "“Then wait”"),
            advance_after: time("latestHours", 3600, "“Open anyway after”"),
            require_approval: stage.approval || undefined,
            allow_self_approval: (stage.approval && stage.more?.allow_self_approval) || undefined,
        };
        return {
            ...devices,
            display_name: stage.name.trim() || undefined,
            releases_per_minute: whole("perMinute", "“Starts per minute”"),
            gate: isLast ? undefined : gate,
            allow_empty: stage.more?.allow_empty || undefined,
        };
    });
    const { seed } = draft.more;
    return { stages, max_in_progress: maxInProgress, seed } as CreateJobRequest["rollout"];
}

/** The name of a stage, or its number. */
export function stageLabel(stage: StageDraft, index: number): string {
    return stage.name.trim() || `Stage ${index}`;
}

/** The parameters of the document. Throws DraftError with the line of the mistake. */
export function draftDocument(text: string): Record<string, unknown> {
    let value: unknown;
    try {
        value = JSON.parse(text);
    } catch (error) {
        throw new DraftError(jsonProblem(text, error as SyntaxError));
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
        throw new DraftError("The document must be an object: {…}");
    }
    return value as Record<string, unknown>;
}

/** What is wrong with the document, for its editor; "": nothing. */
export function documentProblem(text: string): string {
    try {
        draftDocument(text);
        return "";
    } catch (error) {
        return (error as DraftError).message;
    }
}

function jsonProblem(text: string, error: SyntaxError): string {
    // Chromium names the position, Firefox the line.
    const position = /position (\d+)/.exec(error.message)?.[1];
    const line = /line (\d+)/.exec(error.message)?.[1];
    const number = line ?? (position && text.slice(0, Number(position)).split("\n").length);
    const problem = error.message.replace(/^JSON\.parse: /, "").replace(/ in JSON.*$/, "");
    return number ? `Line ${number}: ${problem}` : problem;
}

export function draftLabels(text: string): Record<string, string> | undefined {
    const lines = text.split("\n").filter((line) => line.trim());
    const entries = lines.map((line) => {
        const [key = "", ...rest] = line.split("=");
        if (!key.trim() || !rest.length) {
            throw new DraftError(`Labels are written key=value, not ${line}`, "labels");
        }
        return [key.trim(), rest.join("=")] as const;
    });
    return entries.length ? Object.fromEntries(entries) : undefined;
}

function draftCriterion(c: CriterionDraft, index: number) {
    const label = `Criterion ${index + 1}`;
    const field = (key: keyof CriterionDraft) => `criteria.${index}.${key}`;
    const value = integer(c.value, `${label}: “Threshold”`, field("value"));
    if (!value) throw new DraftError(`${label} needs a threshold`, field("value"));
    const isPercent = c.kind === "percent";
    return {
        ...(isPercent ? { percent: value } : { count: value }),
        failure_codes: splitList(c.codes),
        statuses: c.more?.statuses,
        basis: isPercent ? c.more?.basis : undefined,
        scope: c.scope,
        min_finished: isPercent
            ? integer(
                  c.minFinished,
                  `${label}: “Not before this many devices finished”`,
                  field("minFinished"),
              )
            : undefined,
        action: c.action,
    };
}

/** The settings of the form, which can be changed later. Throws DraftError. */
export function draftSettings(draft: Draft) {
    const minutes = Math.round(Number(draft.windowHours) * 60);
    if (draft.windowStart && !(minutes > 0)) {
        throw new DraftError("“Length of the window” must be a number of hours", "windowHours");
    }
    const attempts = integer(draft.retryAttempts, "“Maximum attempts per device”", "retryAttempts");
    return {
        description: draft.description.trim() || undefined,
        labels: draftLabels(draft.labels),
        rollout: draftRollout(draft),
        failure_criteria: draft.criteria.map(draftCriterion),
        start_at: draft.startAt ? new Date(draft.startAt).toISOString() : undefined,
        start_windows: draft.windowStart
            ? [
                  {
                      days: draft.windowDays,
                      start_time: draft.windowStart,
                      duration: `${minutes * 60}s`,
                  },
                  ...draft.more.windows,
              ]
            : undefined,
        window_time_zone: draft.windowStart ? draft.windowZone : undefined,
        retry_policy:
            attempts && attempts > 1
                ? {
                      rules: [
                          {
                              ...draft.more.rule,
                              failure_codes: splitList(draft.retryCodes),
                              max_attempts: attempts,
                          },
                          ...draft.more.rules,
                      ],
                  }
                : undefined,
        in_progress_timeout_minutes: integer(draft.timeoutMinutes, "The timeout", "timeoutMinutes"),
    };
}

/** The request of the form. Throws DraftError. */
export function draftRequest(draft: Draft): CreateJobRequest {
    const target = draftTarget(draft);
    if (!target) throw new DraftError("Choose the devices");
    if (!draft.type.trim()) throw new DraftError("Name the type of the document, such as reboot");
    const continuous = draft.continuous && canBeContinuous(draft);
    const request = {
        ...target,
        continuous: continuous || undefined,
        max_joins_per_hour: continuous
            ? integer(draft.maxJoins, "The maximum joins per hour", "maxJoins")
            : undefined,
        job_id: draft.jobId.trim() || undefined,
        replaces_job_id: draft.replaces.trim() || undefined,
        document_type: draft.type.trim(),
        document_params: draftDocument(draft.document),
        ...draftSettings(draft),
        expires_in_hours: integer(draft.expiresHours, "The expiry", "expiresHours"),
        priority: draft.priority === "NORMAL" ? undefined : draft.priority,
        require_start_approval: draft.startApproval || undefined,
        execution_events: draft.more.execution_events || undefined,
    };
    return request as unknown as CreateJobRequest;
}

/** What the job will do, in one sentence. */
export function summary(draft: Draft, devices: number, sizes: number[]): string {
    const parts: string[] = [];
    if (sizes.length > 1) {
        const steps = sizes.map((size, index) => {
            const before = draft.stages[index - 1];
            if (!before) return `${counted(size, "device")} first`;
            const gate = [
                before.succeeded ? `if ${before.succeeded} % succeed` : "when all have finished",
                Number(before.bakeMinutes) ? `and ${span(Number(before.bakeMinutes) * 60)} have passed` : "",
                before.approval ? "and someone approves" : "",
                Number(before.latestHours)
                    ? `or anyway after ${span(Number(before.latestHours) * 3600)}`
                    : "",
            ];
            return `then ${size.toLocaleString("en-US")} ${gate.filter(Boolean).join(" ")}`;
        });
        parts.push(steps.join(", "));
    } else {
        parts.push(
            `${counted(devices, "device")} can start ${draft.startAt ? "at the start time" : "at once"}`,
        );
    }
    if (draft.continuous && canBeContinuous(draft)) parts.push("devices that match later join");
    if (draft.startApproval) parts.push("nothing starts before another user approves");
    if (draft.windowStart) parts.push(`only from ${draft.windowStart} for ${draft.windowHours} h`);
    for (const c of draft.criteria) {
        const verb = c.action === "PAUSE" ? "pauses" : "cancels";
        const codes = c.codes.trim() && ` with ${splitList(c.codes).join(" or ")}`;
        const limit = `${c.value}${c.kind === "percent" ? " %" : ""} failures${codes}`;
        const minimum = minimumOf(c);
        const from = minimum ? ` from ${counted(minimum, "finished device")} on` : "";
        parts.push(`${verb} at ${limit}${from}`);
    }
    if (Number(draft.retryAttempts) > 1) parts.push(`tries each device up to ${draft.retryAttempts} times`);
    return `${parts.join("; ")}.`;
}

/** What happens to the devices of the replaced job that have not started. */
export function replacement(draft: Draft, devices: TargetPreview["replaced_devices"] | undefined): string {
    const jobId = shown(draft.replaces.trim());
    if (!devices)
        return `${jobId} is already finished, so nothing is canceled. The two jobs only link to each other.`;
    const { device_count, stage_counts, untargeted_count } = devices;
    const stageOf = (index: number) => shown(draft.stages[index]?.name.trim() || `stage ${index}`);
    const parts = stage_counts.flatMap((n, index) => (n ? [`${count(n)} in ${stageOf(index)}`] : []));
    if (untargeted_count) parts.push(`${count(untargeted_count)} not targeted`);
    const places = parts.length ? `: ${parts.join(", ")}` : "";
    const have = device_count === 1 ? "has" : "have";
    return `Cancels ${jobId}, which ${counted(device_count, "device")} ${have} not started${places}.`;
}

function minimumOf(c: CriterionDraft): number {
    return (c.kind === "percent" && Number(c.minFinished)) || 0;
}

/** The failure criteria that can't act in the first stage or at all, because their minimum is too high. */
export function lateCriteria(draft: Draft, devices: number, sizes: number[]): string[] {
    const stages = sizes.length ? sizes : [devices];
    const isContinuous = draft.continuous && canBeContinuous(draft);
    return draft.criteria.flatMap((c, index) => {
        const minimum = minimumOf(c);
        const most = c.scope === "STAGE" ? Math.max(...stages) : devices;
        const first = stages[0] ?? devices;
        const name = `Criterion ${index + 1} counts from ${counted(minimum, "finished device")} on`;
        if (minimum > most && !(isContinuous && c.scope === "JOB")) {
            const size = counted(most, "device");
            return [
                `${name}: it can never act, because ${c.scope === "STAGE" ? "no stage has more than" : "the job has"} ${size}.`,
            ];
        }
        return minimum > first && sizes.length
            ? [`${name}: it can't act in the first stage, which has ${counted(first, "device")}.`]
            : [];
    });
}

/** The form for another job like this one; `devices`: those of a list. */
export function copyOf(job: Job, devices: string[] = []): Draft {
    const [window, ...windows] = job.start_windows ?? [];
    const [rule, ...rules] = job.retry_policy?.rules ?? [];
    const [targetKind, target] = copiedTarget(job, devices);
    return {
        ...emptyDraft,
        description: job.description,
        labels: Object.entries(job.labels)
            .map(([k, v]) => `${k}=${v}`)
            .join("\n"),
        type: job.document_type,
        document: JSON.stringify(job.document_params, null, 2),
        targetKind,
        target,
        continuous: job.continuous,
        maxJoins: job.max_joins_per_hour ? String(job.max_joins_per_hour) : "",
        stages: (job.rollout?.stages ?? []).map((stage): StageDraft => {
            const [kind, value] = copiedSize(stage);
            const bake = seconds(stage.gate?.bake_time) / 60;
            const latest = seconds(stage.gate?.advance_after) / 3600;
            const { allow_empty } = stage;
            return {
                name: stage.display_name,
                kind,
                value,
                succeeded: stage.gate?.min_succeeded_percent ? String(stage.gate.min_succeeded_percent) : "",
                bakeMinutes: bake ? String(bake) : "",
                latestHours: latest ? String(latest) : "",
                approval: stage.gate?.require_approval ?? false,
                perMinute: stage.releases_per_minute ? String(stage.releases_per_minute) : "",
                more: { allow_empty, allow_self_approval: stage.gate?.allow_self_approval },
            };
        }),
        maxInProgress: job.rollout?.max_in_progress ? String(job.rollout.max_in_progress) : "",
        criteria: (job.failure_criteria ?? []).map((c): CriterionDraft => ({
            kind: c.percent ? "percent" : "count",
            value: String(c.percent ?? c.count ?? ""),
            codes: c.failure_codes.join(" "),
            scope: c.scope,
            minFinished: c.min_finished ? String(c.min_finished) : "",
            action: c.action,
            more: { statuses: c.statuses, basis: c.basis },
        })),
        more: {
            windows,
            rule,
            rules,
            seed: job.rollout?.seed || undefined,
            execution_events: job.execution_events,
        },
        windowDays: window?.days ?? [],
        windowStart: window?.start_time ?? "",
        windowHours: window ? String(Math.round(seconds(window.duration) / 36) / 100) : "6",
        windowZone: job.window_time_zone || "UTC",
        retryAttempts: rule ? String(rule.max_attempts) : "",
        retryCodes: rule?.failure_codes.join(" ") ?? "",
        timeoutMinutes: job.in_progress_timeout_minutes ? String(job.in_progress_timeout_minutes) : "",
        priority: job.priority ?? "NORMAL",
        startApproval: job.start_approval !== null,
    };
}

/** Its devices are a list that only its executions tell. */
export const hasListedDevices = (job: Job) =>
    !job.target_device_id && !job.target_group_id && !job.target_selector && !job.target_all;

function copiedTarget(job: Job, devices: string[]): [TargetKind, string] {
    if (job.target_device_id) return ["device", job.target_device_id];
    if (job.target_group_id) return ["group", job.target_group_id];
    if (job.target_selector) return ["selector", job.target_selector];
    if (job.target_all) return ["all", ""];
    return ["list", devices.join("\n")];
}

function copiedSize(stage: NonNullable<Job["rollout"]>["stages"][number]): [StageDraft["kind"], string] {
    if (stage.group_id) return ["group", stage.group_id];
    if (stage.selector) return ["selector", stage.selector];
    if (stage.percent) return ["percent", String(stage.percent)];
    if (stage.device_count) return ["count", String(stage.device_count)];
    return ["rest", ""];
}
