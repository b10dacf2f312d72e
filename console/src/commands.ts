/** The same action for a terminal: its command of jobs-grpc, and its request as curl. */

import { config, identity } from "./session";

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

/** A request in a terminal: its method, path and body. */
interface Request {
    method: string;
    path: string;
    body?: unknown;
}

export const post = (path: string, body: unknown = {}): Request => ({ method: "POST", path, body });

/** A command of jobs-grpc from its words, such as ["get", jobId], its options and its stdin; and its request. */
export function command(words: string[], options: string[], request: Request, input = ""): Command {
    // An ID can begin with -, as an option does: then it follows a --, after the options.
    const dash = words.findIndex((word) => word.startsWith("-"));
    const args =
        dash < 0 ? [...words, ...options] : [...words.slice(0, dash), ...options, "--", ...words.slice(dash)];
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
