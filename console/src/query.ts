/** Filters, tabs and pages are in the URL, so that a link shows the same view. */

import { useLocation } from "preact-iso";

export type Query = Record<string, string>;

/** The query of the URL, and a function that changes parts of it ("" removes one). */
export function useQuery(): [Query, (changes: Query, replace?: boolean) => void] {
    const { path, query, route } = useLocation();
    const set = (changes: Query, replace = false) => route(path + search({ ...query, ...changes }), replace);
    return [query, set];
}

export function search(query: Query): string {
    const text = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
    return text && `?${text}`;
}

export function jobPath(jobId: string): string {
    return `/console/jobs/${encodeURIComponent(jobId)}`;
}

export function devicePath(deviceId: string): string {
    return `/console/devices/${encodeURIComponent(deviceId)}`;
}

export function executionPath(jobId: string, deviceId: string): string {
    return `${jobPath(jobId)}/devices/${encodeURIComponent(deviceId)}`;
}
