/** Reads a CSV file of devices as `jobs-grpc devices import` does: the same columns, rules and words. */

import { maskOf, type Change } from "./devices";

/** The devices of a file, or what is wrong with its lines. */
export interface DeviceFile {
    lineCount: number;
    devices: Change[];
    problems: string[];
}

const MAX_PROBLEMS = 20;
// As in the service: docs/targets.md.
const MAX_LABELS = 32;
const labelKey =
    /^(?!(group|device_id|in|notin|time_zone|last_seen)$|fact\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/;
const id = /^[^\u0000-\u001f\u007f-\u009f]{1,256}$/u;
const labelValue = /^[^\u0000-\u001f\u007f-\u009f]{0,63}$/u;
const dotSegment = /(^|[/\\])\.\.?([/\\]|$)/;

/** The rows of a CSV text, each with the number of its last line. */
function* rows(text: string): Generator<{ cells: string[]; line: number }> {
    const cell = /(?:"([^"]*(?:""[^"]*)*)"|((?:[^",\r\n][^,\r\n]*)?))(,|\r\n|\r|\n|$)/y;
    let cells: string[] = [];
    let line = 1;
    for (let end = ","; end;) {
        const match = cell.exec(text);
        if (!match)
            throw new Error(
                `Line ${line}: a quoted cell must end with a quote, before a comma or the end of a line`,
            );
        const [, quoted, plain = ""] = match;
        end = match[3] ?? "";
        cells.push(quoted?.replaceAll('""', '"') ?? plain);
        line += quoted?.match(/\r\n|\r|\n/g)?.length ?? 0;
        if (end === ",") continue;
        if (cells.length > 1 || cells[0]) yield { cells, line };
        cells = [];
        line += 1;
    }
}

export function readDeviceFile(text: string): DeviceFile {
    try {
        return readRows([...rows(text)]);
    } catch (error) {
        return { lineCount: 0, devices: [], problems: [(error as Error).message] };
    }
}

function readRows([header, ...lines]: { cells: string[]; line: number }[]): DeviceFile {
    const columns = header?.cells ?? [];
    const devices = new Map<string, Change>();
    const problems = headerProblem(columns);
    for (const { cells, line } of problems.length ? [] : lines) {
        const row = Object.fromEntries(columns.map((name, index) => [name, cells[index] ?? ""]));
        const found =
            cells.length === columns.length ? rowProblem(row) : "must have as many columns as the header";
        if (found) problems.push(`Line ${line}: ${found}`);
        const { device_id = "", group_id, time_zone, ...labels } = row;
        const given = Object.entries(labels).filter(([, value]) => value);
        const change = devices.get(device_id) ?? { device_id };
        if (given.length) {
            change.labels = {
                ...change.labels,
                ...Object.fromEntries(given.map(([k, v]) => [k.slice(LABEL.length), v])),
            };
        }
        if (time_zone) change.time_zone = time_zone;
        if (group_id) change.addGroups = [...(change.addGroups ?? []), group_id];
        devices.set(device_id, { ...change, line });
        if (problems.length === MAX_PROBLEMS) {
            problems.push("…");
            break;
        }
    }
    return { lineCount: lines.length, devices: [...devices.values()].sort(byFields), problems };
}

// A call has devices with the same fields.
const byFields = (a: Change, b: Change) => maskOf(a).localeCompare(maskOf(b));

const LABEL = "label:";

function headerProblem(columns: string[]): string[] {
    const keys = columns.filter((name) => name.startsWith(LABEL)).map((name) => name.slice(LABEL.length));
    const known = columns.every(
        (name) => ["device_id", "group_id", "time_zone"].includes(name) || name.startsWith(LABEL),
    );
    if (!known || !columns.includes("device_id") || new Set(columns).size < columns.length) {
        const actual = columns.length ? `, not ${columns.join(", ")}` : "";
        return [
            `Line 1: the header must be device_id, and optionally group_id, time_zone and label:KEY${actual}`,
        ];
    }
    const invalid = keys.find((key) => !labelKey.test(key));
    if (invalid !== undefined) {
        return [
            `Line 1: ${invalid} is not a label; a key must be 1–63 characters of A-Z a-z 0-9 . _ / -, the first a letter or digit, and not reserved`,
        ];
    }
    return keys.length > MAX_LABELS ? [`Line 1: labels must have at most ${MAX_LABELS} elements`] : [];
}

/** What is invalid about a row; "": nothing. */
function rowProblem({ device_id = "", group_id, time_zone, ...labels }: Record<string, string>): string {
    const rule = "must be 1–256 characters without control characters";
    const long = Object.keys(labels).find((name) => !labelValue.test(labels[name] ?? ""));
    return [
        !id.test(device_id) && `device_id ${rule}`,
        dotSegment.test(device_id) && 'device_id must not have a segment "." or ".."',
        group_id && !id.test(group_id) && `group_id ${rule}`,
        long && `${long} must be at most 63 characters without control characters`,
        time_zone &&
            !isZone(time_zone) &&
            "time_zone must be an IANA time zone such as Europe/Berlin, or UTC",
    ]
        .filter(Boolean)
        .join("; ");
}

const zones = new Map([["UTC", true]]);

/** The browser knows names that the service does not: then the service names the line. */
function isZone(name: string): boolean {
    const known = zones.get(name);
    if (known !== undefined) return known;
    let isValid = name.includes("/");
    try {
        new Intl.DateTimeFormat("en", { timeZone: name });
    } catch {
        isValid = false;
    }
    zones.set(name, isValid);
    return isValid;
}
