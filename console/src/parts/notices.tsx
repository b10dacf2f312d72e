/** Errors where the person looks, and the banner of an outage. */

import type { ComponentChildren } from "preact";
import { outage } from "../load";
import { ApiError } from "../api/client";
import { now } from "../clock";
import { countdown, shown } from "../format";
import { Copy } from "./copy";

interface Props {
    error: ApiError;
    /** What to say instead of the words of the API. */
    texts?: string[];
    children?: ComponentChildren;
}

export function ErrorNotice({ error, texts, children }: Props) {
    const list = texts ?? error.violations.map((v) => v.description);
    const several = texts ? "The service does not accept some fields:" : error.message;
    return (
        <div class="notice bad" role="alert">
            {children}
            <p>{shown(list.length > 1 ? several : (list[0] ?? error.message))}</p>
            {list.length > 1 && (
                <ul>
                    {list.map((text) => (
                        <li key={text}>{shown(text)}</li>
                    ))}
                </ul>
            )}
            {error.requestId && (
                <p class="quiet">
                    Request <code>{shown(error.requestId)}</code>{" "}
                    <Copy text={error.requestId} what="request ID" />
                </p>
            )}
        </div>
    );
}

/** In place of a page whose data could not be read. */
export function ErrorPage({ title, error }: { title: string; error: ApiError }) {
    return (
        <>
            <div class="heading">
                <h1>{shown(title)}</h1>
            </div>
            <ErrorNotice error={error} />
        </>
    );
}

export function OutageBanner() {
    return (
        // Present before its text changes: a screen reader reads only changes.
        <div role="status">
            {outage.value && (
                <p class="outage">
                    {shown(outage.value.message)}
                    {/* Read aloud, it would be read each second. */}
                    <span aria-hidden="true">
                        {" "}
                        (for {countdown((now.value - outage.value.since) / 1000)} now)
                    </span>
                    . This page shows the last known state and updates when the service responds.
                </p>
            )}
        </div>
    );
}
