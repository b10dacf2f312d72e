/** What admins do with devices: the calls, and the questions about them. */

import { ApiError, api, body, page, sameCaller, type Device } from "./api/client";
import { command, labelOptions, post, withValues } from "./commands";
import { draftLabels } from "./draft";
import { counted } from "./format";
import type { Question } from "./parts/dialog";

// As in ListDevicesRequest and UpdateDevicesRequest; a selector has at most 100 values, as does DeleteDevicesRequest.
export const MAX_DEVICES = 1000;
const MAX_VALUES = 100;
// The gateway accepts bodies of 256 KiB, and a selector has at most 4,096 characters.
const MAX_BODY = 200_000;
const MAX_SELECTOR = 4000;

interface DeviceDraft {
    deviceId: string;
    /** One key=value per line; "key-" removes a label. */
    labels: string;
    groups: string;
    zone: string;
}

/** What to change of a device. Absent: nothing. */
export interface Change {
    device_id: string;
    labels?: Record<string, string> | undefined;
    time_zone?: string | undefined;
    /** Groups to add. Absent: groups do not change. */
    addGroups?: string[] | undefined;
    removeGroups?: string[];
    /** The last line of a file that has the device. */
    line?: number;
}

type Groups = Map<string, string[]>;

/** The first devices that match. */
export async function readDevices(selector = "", prefix = "", max = MAX_DEVICES): Promise<Device[]> {
    const found: Device[] = [];
    const query = { selector, device_id_prefix: prefix, limit: max, page_token: "" };
    do {
        const { items, next } = await page(api.GET("/customer/fleet/devices", { params: { query } }));
        found.push(...items);
        query.page_token = next;
    } while (query.page_token && found.length < max);
    return found.slice(0, max);
}

/** The groups of devices now: UpdateDevices replaces them. */
async function readGroups(ids: string[]): Promise<Groups> {
    const texts = ids.map((id) => JSON.stringify(id));
    const longest = Math.max(...texts.map((text) => encodeURIComponent(text).length + 1));
    const size = Math.max(1, Math.min(MAX_VALUES, Math.floor(MAX_SELECTOR / longest)));
    const reads = parts(texts, size).map((part) => readDevices(`device_id in (${part.join()})`));
    return groupsOf((await Promise.all(reads)).flat());
}

const groupsOf = (devices: Device[]): Groups => new Map(devices.map((d) => [d.device_id, d.group_ids]));

function parts<T>(list: T[], size: number): T[][] {
    const starts = Array.from({ length: Math.ceil(list.length / size) }, (_, index) => index * size);
    return starts.map((start) => list.slice(start, start + size));
}

/** The fields that a change has, as UpdateDevices names them. */
export function maskOf({ labels, time_zone, addGroups }: Partial<Change>): string {
    return [labels && "labels", time_zone !== undefined && "time_zone", addGroups && "group_ids"]
        .filter(Boolean)
        .join();
}

function requestOf(changes: Change[], groups: Groups, removed: string[], allow_missing: boolean) {
    const devices = changes.map(({ device_id, labels, time_zone, addGroups, removeGroups = [] }) => {
        const kept = without(groups.get(device_id) ?? [], removeGroups);
        return {
            device_id,
            labels,
            time_zone,
            group_ids: addGroups && [...new Set([...kept, ...addGroups])],
        };
    });
    return {
        devices,
        update_mask: maskOf(changes[0] ?? {}) || undefined,
        remove_labels: removed,
        allow_missing,
    };
}

/** The changes from `start` on that may fit into one call. */
function chunkAt(changes: Change[], start: number): Change[] {
    const chunk = changes.slice(start, start + MAX_DEVICES);
    const mask = maskOf(chunk[0] ?? {});
    let length = 0;
    const end = chunk.findIndex((change, index) => {
        length += JSON.stringify(change).length;
        return index > 0 && (length > MAX_BODY || maskOf(change) !== mask);
    });
    return end < 0 ? chunk : chunk.slice(0, end);
}

/** Sends the changes from `start` on that fit into one call. Returns how many, and how many devices were new. */
export async function send(changes: Change[], start: number, removed: string[] = [], allowMissing = true) {
    const check = sameCaller();
    let chunk = chunkAt(changes, start);
    const groups = chunk[0]?.addGroups
        ? await readGroups(chunk.map((change) => change.device_id))
        : new Map();
    let request = requestOf(chunk, groups, removed, allowMissing);
    // With the groups that stay, and in UTF-8.
    while (chunk.length > 1 && new Blob([JSON.stringify(request)]).size > MAX_BODY) {
        chunk = chunk.slice(0, chunk.length / 2);
        request = requestOf(chunk, groups, removed, allowMissing);
    }
    check();
    try {
        const result = await body(api.POST("/customer/fleet/devices:update", { body: request }));
        return { sent: chunk.length, registered: result.registered_count };
    } catch (error) {
        if (error instanceof ApiError) nameDevices(error, chunk);
        throw error;
    }
}

/** Puts the device, or its line, in place of its number in the request. */
function nameDevices(error: ApiError, chunk: Change[]): void {
    for (const violation of error.violations) {
        const [path, index] = /^devices\[(\d+)\][.:]? ?/.exec(violation.description) ?? [];
        const { device_id, line } = chunk[Number(index)] ?? {};
        if (path)
            violation.description = violation.description.replace(
                path,
                `${line ? `Line ${line}` : device_id}: `,
            );
    }
}

const lines = (text: string) => text.split("\n").filter((line) => line.trim());
const without = <T>(some: T[], others: T[]) => some.filter((value) => !others.includes(value));

/** What the devices have in common. */
export function draftOf([first, ...others]: Device[]): DeviceDraft {
    const { labels = {}, group_ids = [], time_zone = "" } = first ?? {};
    const common = Object.entries(labels).filter(([key, value]) =>
        others.every((d) => d.labels[key] === value),
    );
    return {
        deviceId: "",
        labels: common.map((label) => label.join("=")).join("\n"),
        groups: group_ids.filter((group) => others.every((d) => d.group_ids.includes(group))).join("\n"),
        zone: others.every((d) => d.time_zone === time_zone) ? time_zone : "",
    };
}

/** The differences between the draft and its initial values. Throws DraftError. */
function differences(draft: DeviceDraft, start: DeviceDraft) {
    const removals = lines(draft.labels).filter((line) => /^[^=]+-$/.test(line.trim()));
    const labels = draftLabels(without(lines(draft.labels), removals).join("\n")) ?? {};
    const before = draftLabels(start.labels) ?? {};
    const changed = Object.entries(labels).filter(([key, value]) => before[key] !== value);
    const addGroups = without(lines(draft.groups), lines(start.groups));
    const removeGroups = without(lines(start.groups), lines(draft.groups));
    const keys = removals.map((line) => line.trim().slice(0, -1));
    const fields = {
        labels: changed.length ? Object.fromEntries(changed) : undefined,
        time_zone: draft.zone.trim() === start.zone ? undefined : draft.zone.trim(),
        addGroups: addGroups.length + removeGroups.length ? addGroups : undefined,
        removeGroups,
    };
    return { fields, removed: [...new Set([...keys, ...without(Object.keys(before), Object.keys(labels))])] };
}

/** The command for the same change of all devices. */
function updateCommand(changes: Change[], groups: Groups, removed: string[], allowMissing: boolean) {
    const request = requestOf(changes, groups, removed, allowMissing);
    const { labels, time_zone, group_ids } = request.devices[0] ?? {};
    const words = [
        ...labelOptions(labels).filter((word) => word !== "--label"),
        ...removed.map((key) => `${key}-`),
    ];
    const options = [
        ...changes.flatMap((change) => withValues("--device", [change.device_id])),
        ...(time_zone === undefined ? [] : withValues("--time-zone", [time_zone])),
        ...(group_ids?.flatMap((group) => withValues("--set-group", [group])) ?? []),
        ...(group_ids?.length === 0 ? ["--clear-groups"] : []),
        ...(allowMissing ? ["--allow-missing"] : []),
    ];
    const same = command(
        ["devices", "label", ...words],
        options,
        post("/customer/fleet/devices:update", request),
    );
    // The options give all devices the same groups.
    const differ = request.devices.some((d) => String(d.group_ids) !== String(group_ids));
    return differ ? { curl: same.curl } : same;
}

/** Throws DraftError. */
export function register(draft: DeviceDraft, done: () => void): Question {
    const device_id = draft.deviceId.trim();
    const changes = [{ ...differences(draft, draftOf([])).fields, device_id }];
    return {
        title: "Register device",
        action: "Register device",
        incomplete: !device_id,
        command: device_id ? updateCommand(changes, new Map(), [], true) : undefined,
        run: async () => {
            const check = sameCaller();
            const [existing] = await readDevices(`device_id=${JSON.stringify(device_id)}`);
            if (existing) throw new ApiError(`${device_id} already exists; nothing was changed`, "", 409);
            check();
            await send(changes, 0);
            done();
            return `Registered ${device_id}.`;
        },
    };
}

/** Throws DraftError. */
export function change(
    devices: Device[],
    draft: DeviceDraft,
    start: DeviceDraft,
    done: () => void,
): Question {
    const { fields, removed } = differences(draft, start);
    const changes = devices.map(({ device_id }) => ({ ...fields, device_id }));
    const hasChanges = removed.length > 0 || maskOf(fields) !== "";
    return {
        title: `Edit ${nameOf(devices)}`,
        action: `Save ${counted(devices.length, "device")}`,
        incomplete: !hasChanges,
        command: hasChanges ? updateCommand(changes, groupsOf(devices), removed, false) : undefined,
        run: async () => {
            const check = sameCaller();
            for (let sent = 0; sent < changes.length;) {
                check();
                sent += (await send(changes, sent, removed, false)).sent;
            }
            done();
            return `Changed ${nameOf(devices)}.`;
        },
    };
}

const nameOf = (devices: Device[]) =>
    devices.length === 1 && devices[0] ? devices[0].device_id : counted(devices.length, "device");

export function remove(devices: Device[], done: () => void): Question {
    const ids = devices.map((d) => d.device_id);
    const path = "/customer/fleet/devices:delete";
    const requests = parts(ids, MAX_VALUES).map((device_ids) => ({ device_ids }));
    const commands = requests.map((request) =>
        command(["devices", "delete", ...ids], ["--yes"], post(path, request)),
    );
    const their = ids.length === 1 ? "its" : "their";
    return {
        title: `Delete ${nameOf(devices)}?`,
        children: `This deletes ${counted(ids.length, "device")} with ${their} labels and group memberships, and rejects ${their} executions that are queued or held. Executions in progress can still finish. The gate of a stage counts deleted devices as not succeeded. This can't be undone.`,
        action: `Delete ${counted(ids.length, "device")}`,
        destructive: true,
        devices: ids.length,
        command: { ...commands[0], curl: commands.map((one) => one.curl).join(" && ") },
        run: async () => {
            const check = sameCaller();
            const total = { deleted: 0, ended: 0 };
            for (const request of requests) {
                let result;
                do {
                    check();
                    result = await body(api.POST(path, { body: request }));
                    total.deleted += result.deleted_count;
                    total.ended += result.ended_execution_count;
                } while (result.has_more);
            }
            done();
            return `Deleted ${counted(total.deleted, "device")}, ended ${counted(total.ended, "execution")}.`;
        },
    };
}
