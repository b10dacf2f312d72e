/** Reads Server-Sent Events with fetch, because an EventSource can't send a token. */

import { noteServerTime } from "../clock";
import { credentials, token } from "../session";
import { ApiError, toError, unreachable } from "./client";

export interface StreamEvent {
    type: string;
    id: string;
    data: string;
}

// No event and no comment within this time: the connection is dead.
const SILENCE_MS = 45_000;
const MAX_DELAY_MS = 15_000;
// Retry sooner before the first event: the page is still empty.
const MAX_FIRST_DELAY_MS = 2500;

/**
 * Calls `onEvent` with each event of a stream, and reconnects with Last-Event-ID until `signal` aborts, the
 * stream says that it has ended (status 204, or `onEvent` returns false), or an error is not temporary.
 * Calls `onState` with null when the stream is open, and with an error when it is interrupted.
 */
export async function readStream(
    url: string,
    signal: AbortSignal,
    onEvent: (event: StreamEvent) => boolean | void,
    onState: (error: ApiError | null) => void,
): Promise<void> {
    let lastId = "";
    let delay = 500;
    while (!signal.aborted) {
        const connection = new AbortController();
        const abort = () => connection.abort();
        signal.addEventListener("abort", abort);
        let silence = setTimeout(abort, SILENCE_MS);
        try {
            const openedWith = token.value;
            const headers: Record<string, string> = { ...credentials(), Accept: "text/event-stream" };
            if (lastId) headers["Last-Event-ID"] = lastId;
            const response = await fetch(url, { headers, signal: connection.signal, cache: "no-store" });
            noteServerTime(response);
            if (response.status === 204) return;
            if (!response.ok || !response.body) {
                throw toError(response, await response.json().catch(() => null));
            }
            onState(null);
            delay = 500;
            const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
            let rest = "";
            reading: for (;;) {
                const { value, done } = await reader.read();
                if (done) break;
                clearTimeout(silence);
                silence = setTimeout(abort, SILENCE_MS);
                const blocks = (rest + value).split("\n\n");
                rest = blocks.pop() ?? "";
                for (const block of blocks) {
                    const event = parse(block);
                    if (!event) continue;
                    if (event.id) lastId = event.id;
                    if (event.type === "failure") {
                        const error = failure(event.data, openedWith);
                        if (!error) break reading;
                        throw error;
                    }
                    if (onEvent(event) === false) return;
                }
            }
        } catch (error) {
            if (signal.aborted) return;
            const e = error instanceof ApiError ? error : unreachable();
            if (!e.isTemporary) throw e;
            onState(e);
        } finally {
            clearTimeout(silence);
            signal.removeEventListener("abort", abort);
            connection.abort();
        }
        await pause(delay * (0.5 + Math.random()), signal);
        delay = Math.min(delay * 2, lastId ? MAX_DELAY_MS : MAX_FIRST_DELAY_MS);
    }
}

function parse(block: string): StreamEvent | null {
    const event: StreamEvent = { type: "message", id: "", data: "" };
    let hasField = false;
    for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        if (colon <= 0) continue; // a comment
        const value = line.slice(colon + 1).replace(/^ /, "");
        const name = line.slice(0, colon);
        if (name === "event") event.type = value;
        else if (name === "id") event.id = value;
        else if (name === "data") event.data += (event.data && "\n") + value;
        else continue;
        hasField = true;
    }
    return hasField ? event : null;
}

/** The error of a stream, or null if only its token has ended, which was renewed since. */
function failure(data: string, openedWith: string): ApiError | null {
    const e = JSON.parse(data) as { detail: string; reason: string; code: string; request_id: string };
    // UNAUTHENTICATED: sign in again. Others are temporary: the stream is opened again, and fails then if not.
    const status = e.code === "UNAUTHENTICATED" ? 401 : 503;
    if (status === 401 && token.value !== openedWith) return null;
    if (status === 401) return toError(new Response(null, { status }), { ...e, field_violations: [] });
    return new ApiError(e.detail, e.reason, status, e.request_id);
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
        const timer = setTimeout(done, ms);
        function done() {
            clearTimeout(timer);
            signal.removeEventListener("abort", done);
            resolve();
        }
        signal.addEventListener("abort", done);
    });
}
