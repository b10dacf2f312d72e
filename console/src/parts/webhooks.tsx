/** The webhooks of the tenant: their state, the last delivery, and what admins do with them. */

import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";
import { api, page, type Webhook } from "../api/client";
import { shown } from "../format";
import { useLoaded } from "../load";
import { may } from "../session";
import * as actions from "../webhooks";
import { emptyWebhook, outcome, state, type WebhookDraft } from "../webhooks";
import { eventTypes } from "../words";
import { Badge } from "./badge";
import { Copy } from "./copy";
import { Dialog, type Question } from "./dialog";
import { bind, Check, Select, Text } from "./fields";
import { ErrorNotice } from "./notices";
import { Time } from "./time";

const POLL_MS = 5000;

interface Secret {
    webhook: Webhook;
    secret: string;
}

export function Webhooks() {
    const [dialog, setDialog] = useState<ComponentChildren>(null);
    const [secrets, setSecrets] = useState<Secret[]>([]);
    const [tests, setTests] = useState<Record<string, string>>({});
    const { data, error, reload } = useLoaded(
        "webhooks",
        (signal) => page(api.GET("/customer/webhooks", { signal })),
        POLL_MS,
    );
    const close = () => setDialog(null);
    const ask = (question: Question) => setDialog(<Dialog question={question} close={close} />);
    const showSecret = (webhook: Webhook, text: string) => {
        setSecrets((list) => [...list, { webhook, secret: text }]);
        reload();
    };
    const hideSecret = (text: string) => setSecrets((list) => list.filter((s) => s.secret !== text));
    const webhooks = data?.items ?? [];
    return (
        <section aria-labelledby="webhooks">
            <h2>
                <span id="webhooks">Webhooks</span>
                {may("EventService.CreateWebhook") && (
                    <button
                        class="small"
                        onClick={() => setDialog(<Create close={close} done={showSecret} />)}
                    >
                        New webhook…
                    </button>
                )}
            </h2>
            {error && <ErrorNotice error={error} />}
            {secrets.map((s) => (
                <SecretNotice key={s.secret} {...s} close={() => hideSecret(s.secret)} />
            ))}
            {data && !webhooks.length && (
                <p class="pad quiet">
                    No webhooks. A webhook sends events to an HTTPS endpoint, one per POST, signed.
                </p>
            )}
            <ul class="webhooks">
                {webhooks.map((w) => (
                    <li key={w.webhook_id} class="pad" aria-label={shown(w.url)}>
                        <Facts webhook={w} tested={tests[w.webhook_id]} />
                        <div class="buttons">
                            <button
                                class="small"
                                onClick={() =>
                                    ask(
                                        actions.test(w, (text) =>
                                            setTests((all) => ({ ...all, [w.webhook_id]: text })),
                                        ),
                                    )
                                }
                            >
                                Test…
                            </button>
                            <button
                                class="small"
                                onClick={() => setDialog(<Replay webhook={w} close={close} done={reload} />)}
                            >
                                Replay…
                            </button>
                            <button
                                class="small"
                                onClick={() => setDialog(<Change webhook={w} close={close} done={reload} />)}
                            >
                                Change…
                            </button>
                            <button class="small" onClick={() => ask(actions.rotate(w, showSecret))}>
                                Rotate secret…
                            </button>
                            <button class="small danger" onClick={() => ask(actions.remove(w, reload))}>
                                Delete…
                            </button>
                        </div>
                    </li>
                ))}
            </ul>
            {dialog}
        </section>
    );
}

function Facts({ webhook: w, tested }: { webhook: Webhook; tested: string | undefined }) {
    return (
        <div class="facts-of">
            <p>
                <strong>{shown(w.url)}</strong> <Badge {...state(w)} />
            </p>
            {w.description && <p>{shown(w.description)}</p>}
            <p class="quiet">{w.types.length ? w.types.map(shown).join(", ") : "all events"}</p>
            <p class="quiet">
                {w.last_attempt_at ? (
                    <>
                        Last delivery <Time at={w.last_attempt_at} />:{" "}
                        {outcome(w.last_error, w.last_http_status)}
                    </>
                ) : (
                    "No delivery yet"
                )}
                {w.next_attempt_at && (
                    <>
                        ; next delivery <Time at={w.next_attempt_at} />
                    </>
                )}
                {w.failure_count > 0 && w.last_success_at && (
                    <>
                        ; last success <Time at={w.last_success_at} />
                    </>
                )}
            </p>
            {!w.verified_at && (
                <p class="quiet">
                    Before the first event, the endpoint must answer a signed event of the type webhook.test
                    with a 2xx status.
                </p>
            )}
            {w.purged_position !== "0" && (
                <p class="problem">Events were purged before they could be delivered.</p>
            )}
            {tested && <p role="status">Test event: {tested}</p>}
        </div>
    );
}

/** The only time that a secret is shown: until the person closes it or leaves the page. */
function SecretNotice({ webhook, secret, close }: Secret & { close: () => void }) {
    return (
        <div class="notice warn" role="status">
            <div>
                <p>
                    The secret of {shown(webhook.url)}. Store it now: it is not shown again. The receiver
                    verifies the signature of each delivery with it.
                </p>
                <p>
                    <code>{secret}</code>
                </p>
            </div>
            <div class="buttons">
                <Copy text={secret} what="secret" />
                <button class="small" onClick={close}>
                    I have stored it
                </button>
            </div>
        </div>
    );
}

function Create(props: { close: () => void; done: (webhook: Webhook, secret: string) => void }) {
    const [draft, setDraft] = useState(emptyWebhook);
    const question = actions.create(draft, props.done);
    return <Dialog question={{ ...question, children: fields(draft, setDraft) }} close={props.close} />;
}

function Change(props: { webhook: Webhook; close: () => void; done: () => void }) {
    const { url, description, types, enabled } = props.webhook;
    const [draft, setDraft] = useState<WebhookDraft>({ url, description, types, enabled });
    const question = actions.change(props.webhook, draft, props.done);
    const children = (
        <>
            {fields(draft, setDraft)}
            <Check
                label="Enabled: the service sends events"
                checked={draft.enabled}
                set={(value) => setDraft({ ...draft, enabled: value })}
            />
        </>
    );
    return <Dialog question={{ ...question, children }} close={props.close} />;
}

/** The text is a URL, or the start of one. */
function isUrl(text: string): boolean {
    const url = text.trim();
    return /^https?:\/\//.test(url) || "https://".startsWith(url) || "http://".startsWith(url);
}

function fields(draft: WebhookDraft, setDraft: (draft: WebhookDraft) => void) {
    const field = bind(draft, (changes) => setDraft({ ...draft, ...changes }));
    const toggle = (type: string, on: boolean) =>
        setDraft({ ...draft, types: eventTypes.filter((t) => (t === type ? on : draft.types.includes(t))) });
    return (
        <>
            <Text
                {...field("url", "URL of the endpoint", "https://hooks.example.com/jobs")}
                maxLength={2048}
                autofocus
            />
            {!isUrl(draft.url) && <p class="problem">The URL must begin with https://.</p>}
            <Text {...field("description", "Description", "optional")} maxLength={1000} />
            <fieldset>
                <legend>Events ({draft.types.length || "all, because none is selected"})</legend>
                <div class="types">
                    {eventTypes.map((type) => (
                        <Check
                            key={type}
                            label={type}
                            checked={draft.types.includes(type)}
                            set={(on) => toggle(type, on)}
                        />
                    ))}
                </div>
            </fieldset>
        </>
    );
}

const ages = { "1": "of the last hour", "24": "of the last 24 hours", "72": "of the last 3 days" };

function Replay(props: { webhook: Webhook; close: () => void; done: () => void }) {
    const [hours, setHours] = useState<keyof typeof ages>("24");
    // The position stays the same while the person copies the command.
    const question = useMemo(() => actions.replay(props.webhook, Number(hours), props.done), [hours]);
    const children = (
        <>
            <p>
                The service sends them to {shown(props.webhook.url)} again, in order, and enables the webhook.
            </p>
            <Select label="Which events" value={hours} set={setHours} options={ages} />
        </>
    );
    return <Dialog question={{ ...question, children }} close={props.close} />;
}
