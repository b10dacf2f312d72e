/** Who calls: the tenant and user that were chosen, or a token. Tokens live in memory only. */

import { computed, signal } from "@preact/signals";
import type { Caller } from "./api/types";
import { remember, remembered } from "./storage";

/** What the gateway says about itself: /console/config.json. */
export interface Config {
    /** Calls need a token. */
    require_token: boolean;
    /** Without tokens: the person chooses tenant and user, because no proxy names them. */
    choose_caller: boolean;
    /** Sign in with OpenID Connect; null: paste a token. */
    oidc: { issuer: string; client_id: string; scopes: string } | null;
}

export const config = signal<Config | null>(null);
export const caller = signal<Caller | null>(null);
export const token = signal("");
/** Why the last token is no longer accepted; "": it is, or there was none. */
export const tokenProblem = signal("");

interface Identity {
    tenant: string;
    user: string;
}

// Not secret: the gateway forwards them only where anyone may choose them.
const stored = (): Identity => {
    try {
        return JSON.parse(remembered("caller")) as Identity;
    } catch {
        return { tenant: "demo", user: "" };
    }
};
export const identity = signal<Identity>(stored());

export function choose(next: Identity): void {
    remember("caller", JSON.stringify(next));
    const { tenant, user } = identity.value;
    if (next.tenant === tenant && next.user === user) return;
    identity.value = next;
    // The page of the last caller must not call as the next one.
    caller.value = null;
}

/** The headers of every request. */
export function credentials(): Record<string, string> {
    const c = config.value;
    if (c?.require_token) return token.value ? { Authorization: `Bearer ${token.value}` } : {};
    if (!c?.choose_caller) return {};
    const { tenant, user } = identity.value;
    return { "X-Tenant-Id": tenant, ...(user ? { "X-User-Id": user } : {}) };
}

/** Differs between callers; null: the caller is not known yet. */
export const callerKey = computed(() => {
    const c = caller.value;
    return c && JSON.stringify([c.tenant_id, c.user_id, c.roles]);
});

/** The pages can be shown: a caller is known, or none is needed. */
export const isSignedIn = computed(() => !config.value?.require_token || token.value !== "");

/** Asks for another token, because the service rejected this one: `detail` says why. */
export function tokenRejected(detail: string): void {
    if (!config.value?.require_token || !token.value) return;
    tokenProblem.value = caller.value
        ? "Your session has ended. Sign in again to continue on this page."
        : `The token was not accepted: ${detail}`;
    token.value = "";
    caller.value = null;
}

/** Whether the caller's roles allow a method of JobService, or one with its service, such as EventService.ListEvents. */
export function may(method: string): boolean {
    const name = method.includes(".") ? method : `JobService.${method}`;
    return caller.value?.methods.includes(`fleet.jobs.v1.${name}`) ?? false;
}

const signOutListeners: (() => void)[] = [];

export function onSignOut(listener: () => void): void {
    signOutListeners.push(listener);
}

/** The key of the drafts of new jobs in `sessionStorage`: see drafts.ts. */
export const DRAFTS = "drafts";

export function signOut(): void {
    for (const listener of signOutListeners) listener();
    token.value = "";
    tokenProblem.value = "";
    caller.value = null;
    // The next person does not see them. Last: it fails where the browser stores nothing.
    sessionStorage.removeItem(DRAFTS);
}
