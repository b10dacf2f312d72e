/** The same action for a terminal: its command of jobs-grpc, and its request as curl. */

import { config, identity } from "./session";

export interface Command {
    cli: string;
    curl: string;
}

// A word that no shell changes.
const plain = /^[A-Za-z0-9_./:=@%+,-]+$/;

export function quote(word: string): string {
    return plain.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A command from the arguments of jobs-grpc, and from the method, path and body of the request. */
export function command(
    args: (string | false | null | undefined)[],
    method: string,
    path: string,
    body?: unknown,
): Command {
    const words = args.filter((word): word is string => typeof word === "string" && word !== "");
    return { cli: ["jobs-grpc", ...words.map(quote)].join(" "), curl: curl(method, path, body) };
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
