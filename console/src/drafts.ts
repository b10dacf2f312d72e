/** Keeps the drafts of new jobs in the tab: until the job is created, they survive other pages, reloads and sign-ins. */

import { emptyDraft, type Draft } from "./draft";
import { caller, DRAFTS } from "./session";

/** `query` is that of the page, such as "?copy=fw-1": a copy and an empty form have drafts of their own. */
interface Kept {
    tenant: string;
    query: string;
    draft: Draft;
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

const tenant = () => caller.value?.tenant_id ?? "";

export function keptDraft(query: string): Draft | undefined {
    const kept = read().find((k) => k.tenant === tenant() && k.query === query);
    return kept && { ...emptyDraft, ...kept.draft };
}

/** Keeps a draft in place of the last one of the page; null: none. Returns false if it is too large. */
export function keepDraft(query: string, draft: Draft | null): boolean {
    const fits = JSON.stringify(draft).length <= MAX_CHARACTERS;
    const kept = read().filter((k) => k.tenant !== tenant() || k.query !== query);
    if (draft && fits) kept.unshift({ tenant: tenant(), query, draft });
    if (kept.length) sessionStorage.setItem(DRAFTS, JSON.stringify(kept.slice(0, MAX_DRAFTS)));
    else sessionStorage.removeItem(DRAFTS);
    return fits;
}
