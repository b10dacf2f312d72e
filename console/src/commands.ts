/** The same action for a terminal: its command of jobs-grpc, and its request as curl. */

import { config, identity } from "./session";

export interface Command {
    /** Absent: jobs-grpc has no option for it. */
    cli?: string;
    curl: string;
}

// A word that no shell changes.
const plain = /^[A-Za-z0-9_./:=@%+,-]+$/;

function quote(word: string): string {
    return plain.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A command from the arguments of jobs-grpc, and from the method, path and body of the request. */
export function command(args: string[], method: string, path: string, body?: unknown, input = ""): Command {
    const cli = ["jobs-grpc", ...args.map(quote)].join(" ");
    return { cli: input ? `${cli} <<< ${quote(input)}` : cli, curl: curl(method, path, body) };
}

/** Arguments with an option that reads a file from stdin, and the text of the file; without fields, neither. */
export function withInput(args: string[], option: string, file: Record<string, unknown>) {
    const text = JSON.stringify(file);
    return text === "{}" ? { args, text: "" } : { args: [...args, option, "/dev/stdin"], text };
}

/** An option and its values, or nothing if there are none. */
export function option(name: string, ...values: (string | number | null | undefined)[]): string[] {
    const given = values.filter((value) => value !== undefined && value !== null && value !== "");
    return given.length ? [name, ...given.map(String)] : [];
}

/** The labels of a job as options. */
export function labelOptions(labels: Record<string, string> | null | undefined): string[] {
    return Object.entries(labels ?? {}).flatMap(([key, value]) => ["--label", `${key}=${value}`]);
}

function curl(method: string, path: string, body: unknown): string {
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
