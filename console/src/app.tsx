/** Signs in, then shows the header and the page of the URL. */

import type { FunctionComponent } from "preact";
import { LocationProvider, Route, Router, lazy, useLocation } from "preact-iso";
import { signal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { api, body } from "./api/client";
import { focusPage, watchFocus } from "./focus";
import { outage, useLoaded } from "./load";
import { Confirmation, confirmation, forget } from "./parts/confirmation";
import { ErrorNotice, OutageBanner } from "./parts/notices";
import { Header } from "./parts/header";
import { Footer } from "./parts/time";
import { Fleet } from "./pages/fleet";
import { Jobs } from "./pages/jobs";
import { SignIn } from "./pages/sign-in";
import { NotFound } from "./pages/not-found";
import { type Config, caller, callerKey, config, identity, isSignedIn, token } from "./session";

const Job = ofPath(lazy(() => import("./pages/job").then((m) => m.Job)));
const NewJob = lazy(() => import("./pages/new-job").then((m) => m.NewJob));
const Approvals = lazy(() => import("./pages/approvals").then((m) => m.Approvals));
const Devices = lazy(() => import("./pages/devices").then((m) => m.Devices));
const Device = ofPath(lazy(() => import("./pages/device").then((m) => m.Device)));
const Events = lazy(() => import("./pages/events").then((m) => m.Events));
const Execution = ofPath(lazy(() => import("./pages/execution").then((m) => m.Execution)));

/** A page that keeps no dialog and no form when the URL changes to another job or device. */
function ofPath<Props>(Page: FunctionComponent<Props>) {
    return (props: Props & { path: string }) => <Page key={props.path} {...props} />;
}

const RETRY_MS = 2000;

/** True while /console/config.json can't be loaded. */
const isUnreachable = signal(false);
// Before the first frame.
void loadConfig();

export function App() {
    if (!config.value)
        return <main class="narrow">{isUnreachable.value && <Unreachable what="gateway" />}</main>;
    return <LocationProvider scope="/console">{isSignedIn.value ? <Pages /> : <SignIn />}</LocationProvider>;
}

async function loadConfig() {
    try {
        const response = await fetch("/console/config.json");
        if (!response.ok) throw new Error(`status ${response.status}`);
        // A proxy can answer with a page of its own.
        const loaded = (await response.json()) as Config;
        if (loaded.oidc) {
            const { completeSignIn } = await import("./oidc");
            await completeSignIn(loaded.oidc);
        }
        config.value = loaded;
    } catch {
        isUnreachable.value = true;
        setTimeout(loadConfig, RETRY_MS);
    }
}

function Unreachable({ what }: { what: string }) {
    return (
        <p class="notice warn" role="status">
            The {what} can't be reached. This page loads when it responds.
        </p>
    );
}

function Pages() {
    useEffect(watchFocus, []);
    const who = `${identity.value.tenant} ${identity.value.user} ${token.value}`;
    const { data, error } = useLoaded(who, (signal) => body(api.GET("/customer/caller", { signal })));
    // Until the answer, the last caller stays: a page that is removed loses what the person types.
    useEffect(() => {
        if (data) caller.value = data;
    }, [data]);
    const key = callerKey.value;
    return (
        <>
            <a class="skip" href="#main">
                Skip to content
            </a>
            <Header />
            {key && <OutageBanner />}
            <main id="main" tabIndex={-1}>
                <Confirmation />
                {error && <ErrorNotice error={error} />}
                {!error && (key ? <Routes key={key} /> : outage.value && <Unreachable what="service" />)}
            </main>
            <Footer />
        </>
    );
}

/** The router would fail at a path such as /console/jobs/%. */
function isDecodable(path: string): boolean {
    try {
        return decodeURIComponent(path) !== "";
    } catch {
        return false;
    }
}

function Routes() {
    const { path } = useLocation();
    const shownPath = useRef(path);
    // The next caller does not see what the last one did.
    useEffect(() => forget, []);
    // At once: an action that leads to another page confirms what it did after that.
    useLayoutEffect(() => void (confirmation.value = null), [path]);
    // A page begins at its top, and the keyboard and a screen reader continue there.
    useEffect(() => {
        if (shownPath.current === path) return;
        shownPath.current = path;
        window.scrollTo(0, 0);
        focusPage();
    }, [path]);
    if (!isDecodable(path)) return <NotFound />;
    return (
        <Router>
            <Route path="/console" component={Fleet} />
            <Route path="/console/jobs" component={Jobs} />
            <Route path="/console/new" component={NewJob} />
            <Route path="/console/jobs/:jobId" component={Job} />
            <Route path="/console/jobs/:jobId/devices/:deviceId" component={Execution} />
            <Route path="/console/approvals" component={Approvals} />
            <Route path="/console/devices" component={Devices} />
            <Route path="/console/devices/:deviceId" component={Device} />
            <Route path="/console/events" component={Events} />
            <Route default component={NotFound} />
        </Router>
    );
}
