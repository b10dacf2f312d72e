/** The navigation, and who is signed in. */

import { useLocation } from "preact-iso";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { shown } from "../format";
import { approvable, useWaiting, waiting } from "../waiting";
import { caller, choose, config, identity, signOut } from "../session";
import { submitted } from "./fields";

export function Header() {
    const { path } = useLocation();
    const current = (page: string) => (path.startsWith(page) ? "page" : undefined);
    return (
        <header class="top">
            <a class="brand" href="/console">
                Fleet Jobs
            </a>
            <nav aria-label="Pages">
                <a href="/console" aria-current={/^\/console\/?$/.test(path) ? "page" : undefined}>
                    Fleet
                </a>
                <a href="/console/jobs" aria-current={current("/console/jobs")}>
                    Jobs
                </a>
                <a href="/console/approvals" aria-current={current("/console/approvals")}>
                    Approvals <Waiting />
                </a>
                <a href="/console/devices" aria-current={current("/console/devices")}>
                    Devices
                </a>
                <a href="/console/events" aria-current={current("/console/events")}>
                    Events
                </a>
                <a href="/docs" target="_blank" rel="noreferrer">
                    API
                </a>
            </nav>
            <Who />
        </header>
    );
}

/** The number of jobs that wait for an approval which the caller may give. */
function Waiting() {
    useWaiting();
    const n = waiting.value ? approvable.value.length : 0;
    return n ? <span class="count">{waiting.value?.next ? `${n}+` : n}</span> : null;
}

function Who() {
    const [open, setOpen] = useState(false);
    const button = useRef<HTMLButtonElement>(null);
    const close = () => {
        setOpen(false);
        button.current?.focus();
    };
    const c = caller.value;
    const mayChoose = config.value?.choose_caller && !config.value.require_token;
    const user = c?.user_id || (mayChoose ? "set user name" : "");
    const roles = c?.roles.length ? ` (${c.roles.join(", ")})` : "";
    const text = c ? [c.tenant_id, user].filter(Boolean).join(" · ") + roles : "";
    if (config.value?.require_token) {
        return (
            <div class="who">
                <span>{shown(text)}</span>
                <button class="small" onClick={signOut}>
                    Sign out
                </button>
            </div>
        );
    }
    if (!mayChoose) return <div class="who">{shown(text)}</div>;
    return (
        <div class="who" onKeyDown={(e) => open && e.key === "Escape" && close()}>
            <button ref={button} class="link" aria-expanded={open} onClick={() => setOpen(!open)}>
                {shown(text || identity.value.tenant)}
            </button>
            {open && <ChooseCaller close={close} />}
        </div>
    );
}

function ChooseCaller({ close }: { close: () => void }) {
    const first = useRef<HTMLInputElement>(null);
    useLayoutEffect(() => first.current?.focus(), []);
    const submit = (event: SubmitEvent) => {
        const { tenant = "", user = "" } = submitted(event);
        choose({ tenant, user });
        close();
    };
    return (
        <form class="popover" onSubmit={submit}>
            <label>
                Tenant
                <input
                    ref={first}
                    name="tenant"
                    required
                    maxLength={256}
                    defaultValue={identity.value.tenant}
                />
            </label>
            <label>
                User name
                <input
                    name="user"
                    maxLength={256}
                    defaultValue={identity.value.user}
                    placeholder="such as nina"
                />
            </label>
            <p class="quiet">Approvals need a user name. Other actions work without one.</p>
            <div class="buttons">
                <button class="primary">Use</button>
            </div>
        </form>
    );
}
