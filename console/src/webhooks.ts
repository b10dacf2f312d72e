/** What admins do with webhooks: the words for their state, and the questions about them. */

import { api, body, restPath, send, type Webhook } from "./api/client";
import { serverNow } from "./clock";
import { command, option, post, withValues } from "./commands";
import { counted, HOUR_MS } from "./format";
import type { Question } from "./parts/dialog";
import type { Tone } from "./words";

export interface WebhookDraft {
    url: string;
    description: string;
    /** Empty: all. */
    types: string[];
    enabled: boolean;
}

export const emptyWebhook: WebhookDraft = { url: "", description: "", types: [], enabled: true };

type DeliveryError = NonNullable<Webhook["last_error"]>;

const deliveryErrors: Record<DeliveryError, string> = {
    HTTP_STATUS: "the endpoint did not accept it",
    REDIRECT: "the endpoint answered with a redirect, which is not followed",
    TIMEOUT: "no response within 15 seconds",
    HOST_NOT_FOUND: "the host name could not be resolved",
    ADDRESS_NOT_ALLOWED: "the service may not send to this address or port",
    CONNECTION_FAILED: "the connection was refused or lost",
    TLS_FAILED: "the certificate is not valid for the host, or TLS failed",
};

/** What came of a delivery, such as "accepted (status 204)". */
export function outcome(error: DeliveryError | null | undefined, httpStatus: number): string {
    const text = error ? (deliveryErrors[error] ?? error) : "accepted";
    return httpStatus ? `${text} (status ${httpStatus})` : text;
}

// A server begins a delivery within a second or so after it is due.
const MAX_DUE_MS = 60_000;

export function state(w: Webhook): { word: string; tone: Tone } {
    if (w.disabled_cause === "RETRIES_EXHAUSTED")
        return { word: "Disabled: no delivery succeeded for five days", tone: "bad" };
    if (w.disabled_cause === "GONE") return { word: "Disabled: the endpoint is gone", tone: "bad" };
    if (!w.enabled) return { word: "Disabled", tone: "quiet" };
    if (w.failure_count) {
        const word = w.verified_at ? "Retrying" : "Not verified";
        return { word: `${word}: ${counted(w.failure_count, "failure")}`, tone: "warn" };
    }
    if (w.due_since && serverNow() - Date.parse(w.due_since) > MAX_DUE_MS)
        return { word: "Waiting: no server begins deliveries, or all are busy", tone: "bad" };
    if (!w.verified_at) return { word: "Not verified", tone: "quiet" };
    return { word: "Enabled", tone: "good" };
}

const path = (w: Webhook, verb = "") => restPath("webhooks", w.webhook_id) + verb;
const params = (w: Webhook) => ({ params: { path: { webhook_id: w.webhook_id } } });

/** `done` gets the secret, which no other call returns. */
export function create(draft: WebhookDraft, done: (w: Webhook, secret: string) => void): Question {
    const { description, types } = draft;
    const url = draft.url.trim();
    const request = { url, description, types };
    return {
        title: "New webhook",
        action: "Create webhook",
        incomplete: !url,
        command: command(
            ["webhooks", "create", url || "URL"],
            [...option("--type", ...types), ...option("--description", description)],
            post("/customer/webhooks", request),
        ),
        run: async () => {
            const { webhook, secret } = await body(api.POST("/customer/webhooks", { body: request }));
            done(webhook, secret);
        },
    };
}

type Changes = Partial<WebhookDraft> & { position?: string };

function update(w: Webhook, changes: Changes, done: () => void): Pick<Question, "command" | "run"> {
    const { url, description, types, enabled, position } = changes;
    const options = [
        ...option("--url", url),
        ...(description === undefined ? [] : withValues("--description", [description])),
        ...(types === undefined ? [] : types.length ? ["--type", ...types] : ["--all-types"]),
        ...(enabled === undefined ? [] : [enabled ? "--enable" : "--disable"]),
        ...option("--position", position),
    ];
    const fields = { update_mask: Object.keys(changes).join(), webhook: changes };
    const request = { method: "PATCH", path: path(w), body: fields };
    return {
        command: command(["webhooks", "update", w.webhook_id], options, request),
        run: () => send(request).then(done),
    };
}

const sorted = (types: string[]) => [...types].sort().join();

/** Changes the fields of the draft that differ. */
export function change(w: Webhook, draft: WebhookDraft, done: () => void): Question {
    const changes: Changes = {};
    const url = draft.url.trim();
    if (url !== w.url) changes.url = url;
    if (draft.description !== w.description) changes.description = draft.description;
    if (sorted(draft.types) !== sorted(w.types)) changes.types = draft.types;
    if (draft.enabled !== w.enabled) changes.enabled = draft.enabled;
    const hasChanges = Object.keys(changes).length > 0;
    return {
        title: "Change the webhook",
        action: "Save",
        incomplete: !hasChanges || !url,
        ...update(w, changes, done),
        ...(hasChanges ? {} : { command: undefined }),
    };
}

/** Sends the events of the last hours again, and those that were not delivered yet. */
export function replay(w: Webhook, hours: number, done: () => void): Question {
    // Positions are microseconds since 1970. A later position than the webhook's would skip events.
    const start = (serverNow() - hours * HOUR_MS) * 1000;
    const position = String(Math.min(start, Number(w.position)));
    return {
        title: "Replay events?",
        action: "Replay",
        ...update(w, { position, enabled: true }, done),
    };
}

export function rotate(w: Webhook, done: (w: Webhook, secret: string) => void): Question {
    return {
        title: "Rotate the secret?",
        children: `For a day, deliveries to ${w.url} are signed with the old secret as well. After that, the old secret is invalid.`,
        action: "Rotate secret",
        command: command(["webhooks", "rotate-secret", w.webhook_id], [], post(path(w, ":rotateSecret"))),
        run: async () => {
            const call = api.POST("/customer/webhooks/{webhook_id}:rotateSecret", { ...params(w), body: {} });
            done(w, (await body(call)).secret);
        },
    };
}

export function remove(w: Webhook, done: () => void): Question {
    const request = { method: "DELETE", path: path(w) };
    return {
        title: "Delete the webhook?",
        children: `${w.url} gets no more events. Its secret and its position are lost. This can't be undone.`,
        action: "Delete webhook",
        destructive: true,
        command: command(["webhooks", "delete", w.webhook_id], [], request),
        run: () => send(request).then(done),
    };
}

/** `done` gets the outcome as a text. */
export function test(w: Webhook, done: (outcome: string) => void): Question {
    return {
        title: "Send a test event?",
        children: `${w.url} gets one event of the type webhook.test. Other deliveries are not affected.`,
        action: "Send test event",
        command: command(["webhooks", "test", w.webhook_id], [], post(path(w, ":test"))),
        run: async () => {
            const call = api.POST("/customer/webhooks/{webhook_id}:test", { ...params(w), body: {} });
            const { error, http_status } = await body(call);
            done(outcome(error, http_status));
        },
    };
}
