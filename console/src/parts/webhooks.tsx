/** The webhooks of the tenant: their state, the last delivery, test and replay. For admins. */

import { useState } from "preact/hooks";
import { ApiError, api, body, page, type Webhook } from "../api/client";
import { command } from "../commands";
import { counted, shown } from "../format";
import { useLoaded } from "../load";
import { Badge } from "./badge";
import { Dialog, type Question } from "./dialog";
import { ErrorNotice } from "./notices";
import { Time } from "./time";

const POLL_MS = 5000;

const errors: Record<string, string> = {
    HTTP_STATUS: "answered",
    REDIRECT: "answered with a redirect",
    TIMEOUT: "no answer within 15 s",
    HOST_NOT_FOUND: "host not found",
    ADDRESS_NOT_ALLOWED: "address not allowed",
    CONNECTION_FAILED: "connection failed",
    TLS_FAILED: "TLS failed",
};

function state(w: Webhook) {
    if (w.disabled_cause === "RETRIES_EXHAUSTED")
        return { word: "Disabled: no delivery succeeded for five days", tone: "bad" as const };
    if (w.disabled_cause === "GONE") return { word: "Disabled: the endpoint is gone", tone: "bad" as const };
    if (!w.enabled) return { word: "Disabled", tone: "quiet" as const };
    if (w.failure_count)
        return { word: `Retrying: ${counted(w.failure_count, "failure")}`, tone: "warn" as const };
    return { word: "Enabled", tone: "good" as const };
}

export function Webhooks() {
    const [question, setQuestion] = useState<Question | null>(null);
    const [result, setResult] = useState("");
    const { data, error, reload } = useLoaded(
        "webhooks",
        (signal) => page(api.GET("/customer/webhooks", { signal })),
        POLL_MS,
    );
    const test = async (w: Webhook) => {
        setResult("Sending …");
        try {
            const sent = await body(
                api.POST("/customer/webhooks/{webhook_id}:test", {
                    params: { path: { webhook_id: w.webhook_id } },
                    body: {},
                }),
            );
            const problem = sent.error ? `${errors[sent.error] ?? sent.error}` : "accepted";
            setResult(
                `Test of ${w.webhook_id}: ${problem}${sent.http_status ? ` (${sent.http_status})` : ""}`,
            );
        } catch (e) {
            setResult(e instanceof ApiError ? e.message : String(e));
        }
    };
    const webhooks = data?.items ?? [];
    return (
        <section class="card" aria-labelledby="webhooks">
            <h2 id="webhooks">Webhooks</h2>
            {error && <ErrorNotice error={error} />}
            {data && !webhooks.length && (
                <p class="pad quiet">
                    There are none. Create one with <code>jobs-grpc webhooks create URL</code>.
                </p>
            )}
            {webhooks.length > 0 && (
                <div class="across">
                    <table>
                        <thead>
                            <tr>
                                <th>Endpoint</th>
                                <th>State</th>
                                <th>Last delivery</th>
                                <td />
                            </tr>
                        </thead>
                        <tbody>
                            {webhooks.map((w) => (
                                <tr key={w.webhook_id}>
                                    <td>
                                        {shown(w.url)}{" "}
                                        <div class="quiet">
                                            {shown(w.description || w.types.join(", ") || "all events")}
                                        </div>
                                    </td>
                                    <td>
                                        <Badge {...state(w)} />
                                    </td>
                                    <td>
                                        <Time at={w.last_attempt_at} />{" "}
                                        <span class="quiet">
                                            {w.last_error ? errors[w.last_error] : ""}{" "}
                                            {w.last_http_status || ""}
                                        </span>
                                    </td>
                                    <td class="number">
                                        <div class="buttons end">
                                            <button class="small" onClick={() => void test(w)}>
                                                Test
                                            </button>
                                            <button
                                                class="small"
                                                onClick={() => setQuestion(replay(w, reload))}
                                            >
                                                Replay…
                                            </button>
                                        </div>
                                    </td>
                                </tr>
                            ))}
                        </tbody>
                    </table>
                </div>
            )}
            <p class="pad quiet" role="status">
                {shown(result)}
            </p>
            {question && <Dialog question={question} close={() => setQuestion(null)} />}
        </section>
    );
}

const HOURS = 24;

/** Sends the events of the last day again. Positions are microseconds since 1970. */
function replay(w: Webhook, done: () => void): Question {
    const position = String((Date.now() - HOURS * 3_600_000) * 1000);
    const request = { update_mask: "position,enabled", webhook: { position, enabled: true } };
    return {
        title: "Send the events of the last 24 hours again?",
        children: `${w.url} gets each of them once more, in order, and is enabled.`,
        action: "Send again",
        command: command(
            ["webhooks", "update", w.webhook_id, "--position", position, "--enable"],
            "PATCH",
            `/customer/webhooks/${w.webhook_id}`,
            request,
        ),
        run: async () => {
            await body(
                api.PATCH("/customer/webhooks/{webhook_id}", {
                    params: { path: { webhook_id: w.webhook_id } },
                    body: request as never,
                }),
            );
            done();
        },
    };
}
