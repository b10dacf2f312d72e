/** Keeps the drafts of new jobs in the tab: until the job is created, they survive other pages, reloads and sign-ins. */

import { emptyDraft, type Draft } from "./draft";
import { caller, config, DRAFTS } from "./session";

/** The ID that the console generated for a request: the service creates one job, however often it is sent. */
interface Attempt {
    /** The request as JSON. */
    key: string;
    id: string;
}

/** `query` is that of the page, such as "?copy=fw-1": a copy and an empty form have drafts of their own. */
interface Kept {
    owner: string;
    query: string;
    draft: Draft;
    /** Absent: no request without a job ID was sent. */
    attempt?: Attempt | undefined;
}

// The last ones. The storage of a tab has 5 MB.
const MAX_DRAFTS = 5;
const MAX_CHARACTERS = 200_000;

function read(): Kept[] {
    try {
        return JSON.parse(sessionStorage.getItem(DRAFTS) ?? "[]") as Kept[];
    } catch {
        return [];
    }
}

/** The tenant; with tokens also the user, because another one can sign in. A user name that is chosen is no secret. */
function owner(): string {
    const user = config.value?.require_token ? caller.value?.user_id : "";
    return JSON.stringify([caller.value?.tenant_id, user]);
}

export function keptDraft(query: string): Pick<Kept, "draft" | "attempt"> | undefined {
    const found = read().find((k) => k.owner === owner() && k.query === query);
    return found && { ...found, draft: { ...emptyDraft, ...found.draft } };
}

/** Keeps a draft in place of the last one of the page; null: none. Returns false if it is too large or not stored. */
export function keepDraft(query: string, draft: Draft | null, attempt?: Attempt): boolean {
    const fits = JSON.stringify(draft).length <= MAX_CHARACTERS;
    const others = read().filter((k) => k.owner !== owner() || k.query !== query);
    if (draft && fits) others.unshift({ owner: owner(), query, draft, attempt });
    try {
        if (others.length) sessionStorage.setItem(DRAFTS, JSON.stringify(others.slice(0, MAX_DRAFTS)));
        else sessionStorage.removeItem(DRAFTS);
    } catch {
        return false;
    }
    return fits;
}

/** A random UUID. `crypto.randomUUID` exists only with TLS or on this machine. */
export function randomId(): string {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    // The digits of version 4 and its variant.
    return hex.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, "$1-$2-4$3-8$4-$5");
}
