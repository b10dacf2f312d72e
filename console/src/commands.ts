/** The same action for a terminal: its command of jobs-grpc, and its request as curl. */

import type { Request } from "./api/client";
import type { CreateJobRequest } from "./api/types";
import { caller, config, identity } from "./session";

export interface Command {
    /** Absent: jobs-grpc has no option for it. */
    cli?: string;
    curl: string;
}

// A word that no shell changes: zsh looks for a program after a first =.
const plain = /^[A-Za-z0-9_./:@%+,-][A-Za-z0-9_./:=@%+,-]*$/;

function quote(word: string): string {
    return plain.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

export const post = (path: string, body: unknown = {}): Request => ({ method: "POST", path, body });

/** A command of jobs-grpc from its words, such as ["get", jobId], its options and its stdin; and its request. */
export function command(words: string[], options: string[], request: Request, input = ""): Command {
    // A token names the tenant.
    const tenant = config.value?.require_token ? "" : caller.value?.tenant_id;
    const all = [...options, ...option("--tenant", tenant)];
    // An ID can begin with -, as an option does: then it follows a --, after the options.
    const dash = words.findIndex((word) => word.startsWith("-"));
    const args =
        dash < 0 ? [...words, ...all] : [...words.slice(0, dash), ...all, "--", ...words.slice(dash)];
    const cli = ["jobs-grpc", ...args.map(quote)].join(" ");
    return { cli: input ? `printf %s ${quote(input)} | ${cli}` : cli, curl: curl(request) };
}

/** Options with one that reads a file from stdin, and the text of the file; without fields, neither. */
export function withInput(options: string[], name: string, file: Record<string, unknown>) {
    const text = JSON.stringify(file);
    return text === "{}" ? { options, text: "" } : { options: [...options, name, "/dev/stdin"], text };
}

/** An option and its values, or nothing if there are none. */
export function option(name: string, ...values: (string | number | null | undefined)[]): string[] {
    const given = values.filter((value) => value !== undefined && value !== null && value !== "");
    return given.length ? withValues(name, given.map(String)) : [];
}

/** An option and its values, which can be empty texts. */
export function withValues(name: string, values: string[]): string[] {
    const looksLikeOption = values.some((value) => value.startsWith("-"));
    return looksLikeOption ? values.map((value) => `${name}=${value}`) : [name, ...values];
}

/** The labels of a job as options. */
export function labelOptions(labels: Record<string, string> | null | undefined): string[] {
    return Object.entries(labels ?? {}).flatMap(([key, value]) => ["--label", `${key}=${value}`]);
}

/** The options that describe these stages and failure criteria; null: only a file can. */
export function rolloutOptions(request: CreateJobRequest): string[] | null {
    const { rollout, failure_criteria, start_windows, retry_policy } = request;
    const stages = rollout?.stages ?? [];
    const criteria = failure_criteria ?? [];
    // One option sets the gates or the rates of all stages.
    const gates = stages.slice(0, -1).map((stage) => stage.gate);
    const rates = stages.map((stage) => stage.releases_per_minute);
    const differ = [gates, rates].some((list) => new Set(list.map((each) => JSON.stringify(each))).size > 1);
    const hasMore = stages.some((stage) => stage.display_name || stage.gate?.allow_self_approval);
    const isOption = (c: (typeof criteria)[number]) =>
        !c.failure_codes?.length &&
        !c.statuses?.length &&
        c.scope === "JOB" &&
        c.action !== "FORCE_CANCEL" &&
        (!c.percent || ((c.basis ?? "FINISHED") === "FINISHED" && c.min_finished === MIN_FINISHED));
    const actions = new Set(criteria.map((c) => c.action));
    if (differ || hasMore || rollout?.seed || start_windows || retry_policy) return null;
    if (actions.size < criteria.length || !criteria.every(isOption)) return null;
    const gate = gates[0];
    return [
        ...stages.flatMap((stage) => option("--stage", stageSize(stage))),
        ...option("--min-succeeded", gate?.min_succeeded_percent),
        ...option("--bake", gate?.bake_time),
        ...option("--advance-after", gate?.advance_after),
        ...(gate?.require_approval ? ["--require-approval"] : []),
        ...option("--releases-per-minute", rates[0]),
        ...option("--max-in-progress", rollout?.max_in_progress),
        ...criteria.flatMap((c) =>
            option(`--${c.action?.toLowerCase()}-at`, c.percent ? `${c.percent}%` : c.count),
        ),
    ];
}

// What --pause-at and --cancel-at set with a percentage.
const MIN_FINISHED = 20;

function stageSize(stage: NonNullable<CreateJobRequest["rollout"]>["stages"][number]): string {
    const end = stage.allow_empty ? ",allow-empty" : "";
    if (stage.group_id) return `group:${stage.group_id}${end}`;
    if (stage.selector) return `where:${stage.selector}${end}`;
    if (stage.percent) return `${stage.percent}%`;
    return stage.device_count ? String(stage.device_count) : "rest";
}

function curl({ method, path, body }: Request): string {
    const parts = ["curl"];
    if (method !== "GET" && !(method === "POST" && body !== undefined)) parts.push("-X", method);
    if (config.value?.require_token) parts.push("-H", '"Authorization: Bearer $TOKEN"');
    else if (config.value?.choose_caller) {
        parts.push("-H", quote(`X-Tenant-Id: ${identity.value.tenant}`));
        if (identity.value.user) parts.push("-H", quote(`X-User-Id: ${identity.value.user}`));
    }
    if (body !== undefined) parts.push("--json", quote(JSON.stringify(body)));
    parts.push(quote(location.origin + path));
    return parts.join(" ");
}
