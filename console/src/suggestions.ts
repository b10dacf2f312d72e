/** The labels and groups of the devices: what fields suggest, and which labels no device has. */

import { api, body, type FleetLabels } from "./api/client";
import { counted } from "./format";
import { useLoaded } from "./load";
import { term } from "./parts/labels";
import { may } from "./session";

/** Values to choose from, each with a text that explains it, or "". */
export type Suggestions = Record<string, string>;

const MAX_SUGGESTED = 100;

/** undefined: not read yet, or the caller may not call ListLabels. */
export function useLabels(): FleetLabels | undefined {
    const { data } = useLoaded(may("FleetService.ListLabels") ? "labels" : null, (signal) =>
        body(api.GET("/customer/fleet/labels", { signal })),
    );
    return data;
}

/** The groups; none for a field without suggestions. */
export function groupSuggestions(known: FleetLabels | undefined): Suggestions {
    const groups = known?.groups ?? [];
    return Object.fromEntries(groups.map((g) => [g.group_id, groupSize(g.device_count)]));
}

// The service counts no further.
const MAX_COUNTED = 10_000;

/** How many devices a group has. */
function groupSize(devices: number): string {
    return devices > MAX_COUNTED ? `more than ${counted(MAX_COUNTED, "device")}` : counted(devices, "device");
}

// Another value of "key in (a,b" or "key notin (a,b": the text before it, and the key.
const list = /^(?:.*,)?\s*([\w./-]+)\s+(?:not)?in\s*\((?:[^()]*,)?\s*(?=[^(),]*$)/;

/** The selectors that continue a text with a label or a group that exists. */
export function selectorSuggestions(known: FleetLabels | undefined, text: string): Suggestions {
    const groups = Object.entries(groupSuggestions(known)).map(([value, size]) => ({ value, size }));
    // Of a large fleet, the service reads a part of the labels, and all devices of the groups.
    const least = known?.complete ? "" : "at least ";
    const labels = (known?.labels ?? []).map(({ key, values }) => ({
        key,
        values: values.map((v) => ({ value: v.value, size: least + counted(v.device_count, "device") })),
    }));
    const keys = [...labels, { key: "group", values: groups }];
    const [head, listKey] = list.exec(text) ?? [];
    // What is typed last begins after a comma, spaces and a "!".
    const start = head ?? /^(?:.*,)?\s*!?/.exec(text)?.[0] ?? "";
    const found = keys.flatMap(({ key, values }): [string, string][] => {
        if (head === undefined && start.endsWith("!")) return key === "group" ? [] : [[start + key, ""]];
        if (head !== undefined && key !== listKey) return [];
        const operator = text.startsWith(`${start}${key}!=`) ? "!=" : "=";
        return values.map((v) => {
            const value = term("", v.value).slice(1);
            return [start + (head === undefined ? key + operator + value : value), v.size];
        });
    });
    const matching = found.filter(([value]) => value.startsWith(text) && value !== text);
    return Object.fromEntries(matching.slice(0, MAX_SUGGESTED));
}

/** A label that a selector names and no device has; "": all exist, or not all devices are known. */
export function unknownLabel(known: FleetLabels | undefined, selector: string): string {
    if (!known?.complete) return "";
    const keys = new Set(["group", "device_id", ...known.labels.map((label) => label.key)]);
    // Quotes and parentheses have values only.
    const terms = selector.replace(/"(?:[^"\\]|\\.)*"?|\([^)]*\)?/g, "").split(",");
    const named = terms.map((one) => /^\s*!?\s*([A-Za-z0-9][\w./-]*)/.exec(one)?.[1] ?? "");
    // Facts are not listed.
    return named.find((key) => key && !keys.has(key) && !key.startsWith("fact.")) ?? "";
}
