/** Calls of the REST API of the service. */

import createClient, { type Middleware } from "openapi-fetch";
import type { paths } from "./schema";
import type { Filled, Message } from "./types";
import { noteServerTime } from "../clock";
import { callerKey, credentials, tokenRejected } from "../session";

export type * from "./types";

/** An error of the API, or `reason` UNREACHABLE if there was no response. */
export class ApiError extends Error {
    constructor(
        message: string,
        readonly reason: string,
        readonly status: number,
        readonly requestId = "",
        readonly violations: { field: string; description: string }[] = [],
        readonly retryAfter = 0,
    ) {
        super(message);
    }

    /** The service is away or busy: the same request can succeed later. */
    get isTemporary(): boolean {
        return this.status === 0 || this.status === 429 || this.status >= 500;
    }
}

const everyCall: Middleware = {
    onRequest({ request }) {
        for (const [name, value] of Object.entries(credentials())) request.headers.set(name, value);
    },
    onResponse({ response }) {
        noteServerTime(response);
    },
};

export const api = createClient<paths>({ baseUrl: "" });
api.use(everyCall);

/** The path of a customer's resource, such as restPath("jobs", jobId). */
export function restPath(...parts: string[]): string {
    return `/customer/${parts.map(encodeURIComponent).join("/")}`;
}

export interface Page<T> {
    items: T;
    next: string;
}

/**
 * Returns a check that throws ApiError if the caller has changed since. Before each further call of an action: every
 * request is made as the caller of that moment.
 */
export function sameCaller(): () => void {
    const key = callerKey.value;
    return () => {
        if (callerKey.value !== key) throw new ApiError("Stopped: the caller has changed", "", 409);
    };
}

/** A request of the REST API, as a terminal shows it. */
export interface Request {
    method: string;
    path: string;
    body?: unknown;
}

/** Makes a call whose response is not read. Throws ApiError. */
export async function send({ method, path, body }: Request): Promise<void> {
    await checked(api.request(method.toLowerCase() as "post", path as never, { body } as never));
}

interface Result<T> {
    data?: T;
    error?: unknown;
    response: Response;
}

/** The body of a response. Throws ApiError. */
export async function body<T>(call: Promise<Result<T>>): Promise<Filled<NonNullable<T>>> {
    return (await checked(call)).data as Filled<NonNullable<T>>;
}

/** A page of a list, and the token of the next one. Throws ApiError. */
export async function page<T>(call: Promise<Result<T>>): Promise<Page<Filled<NonNullable<T>>>> {
    const { data, response } = await checked(call);
    return { items: data as Filled<NonNullable<T>>, next: response.headers.get("X-Next-Page-Token") ?? "" };
}

async function checked<T>(call: Promise<Result<T>>) {
    let result: Result<T>;
    try {
        result = await call;
    } catch (error) {
        if (error instanceof DOMException && error.name === "AbortError") throw error;
        throw unreachable();
    }
    const { data, error, response } = result;
    if (!response.ok || data === undefined || data === null) throw toError(response, error);
    return { data: data as NonNullable<T>, response };
}

export function unreachable(): ApiError {
    return new ApiError("The service can't be reached", "UNREACHABLE", 0);
}

function detailOf(error: unknown): string {
    const hasDetail = typeof error === "object" && error !== null && "detail" in error;
    return hasDetail ? String(error.detail) : "";
}

/** The error of a response that is not OK; `error` is its decoded body. */
export function toError(response: Response, error: unknown): ApiError {
    if (response.status === 401) tokenRejected(detailOf(error));
    const retryAfter = Number(response.headers.get("Retry-After") ?? 0);
    const requestId = response.headers.get("X-Request-Id") ?? "";
    if (typeof error === "object" && error !== null && "detail" in error) {
        const e = error as Message<"ApiError">;
        return new ApiError(
            e.detail,
            e.reason,
            response.status,
            e.request_id || requestId,
            e.field_violations,
            retryAfter,
        );
    }
    const text = `The service answered with status ${response.status}`;
    return new ApiError(text, "", response.status, requestId, [], retryAfter);
}
