/** The directory of devices: search by prefix, group and labels; register, change and delete. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { ApiError, api, page, type Device, type FleetLabels } from "../api/client";
import { MAX_DEVICES, readDevices, remove } from "../devices";
import { count, counted, shown } from "../format";
import { useLoaded } from "../load";
import { lateFailure } from "../parts/confirmation";
import { DeviceDialog } from "../parts/device-dialog";
import { Dialog } from "../parts/dialog";
import { FilterField, Filters } from "../parts/fields";
import { ImportDialog } from "../parts/import-dialog";
import { Labels, term } from "../parts/labels";
import { NoDevices } from "../parts/no-devices";
import { ErrorNotice } from "../parts/notices";
import { Pager } from "../parts/pager";
import { SavedFilters } from "../parts/saved-filters";
import { Selection } from "../parts/selection";
import { SelectorField } from "../parts/selector-field";
import { Table } from "../parts/table";
import { Time } from "../parts/time";
import { devicePath, search, useQuery } from "../query";
import { may } from "../session";
import { useLabels } from "../suggestions";
import { useTitle } from "../title";

const PAGE_SIZE = 100;
const POLL_MS = 10_000;
const GROUPS_SHOWN = 20;
const none: ReadonlyMap<string, Device> = new Map();

export function Devices() {
    useTitle("Devices");
    const [query, setQuery] = useQuery();
    const filter = search({ ...query, page: "" });
    const [selection, setSelection] = useState({ filter, devices: none });
    // Those of another filter are out of sight.
    const selected = selection.filter === filter ? selection.devices : none;
    const setSelected = (devices: typeof none) => setSelection({ filter, devices });
    const [dialog, setDialog] = useState<ComponentChildren>(null);
    const known = useLabels();
    const { data, error, reload } = useLoaded(
        JSON.stringify(query),
        (signal) =>
            page(
                api.GET("/customer/fleet/devices", {
                    params: {
                        query: {
                            selector: query.where || undefined,
                            device_id_prefix: query.id || undefined,
                            limit: PAGE_SIZE,
                            page_token: query.page || undefined,
                        },
                    },
                    signal,
                }),
            ),
        POLL_MS,
    );
    const devices = data?.items ?? [];
    // Also of other pages.
    const chosen = [...selected.values()];
    const select = (some: Device[], on: boolean) => {
        const ids = new Set(some.map((d) => d.device_id));
        const all = [...chosen.filter((d) => !ids.has(d.device_id)), ...(on ? some : [])];
        setSelected(new Map(all.slice(0, MAX_DEVICES).map((d) => [d.device_id, d])));
        if (all.length <= MAX_DEVICES) return;
        const most = `at most ${counted(MAX_DEVICES, "device")} can be selected`;
        const leftOut = `${counted(all.length - MAX_DEVICES, "device")} not selected`;
        lateFailure.value = {
            text: "Not all devices are selected:",
            error: new ApiError(`${leftOut}: ${most}`, "", 400),
        };
    };
    const selectMatching = async () => {
        try {
            select(await readDevices(query.where, query.id), true);
        } catch (error) {
            if (!(error instanceof ApiError)) throw error;
            lateFailure.value = { text: `“Select up to ${count(MAX_DEVICES)} that match” failed:`, error };
        }
    };
    const close = () => setDialog(null);
    const done = () => {
        setSelected(none);
        reload();
    };
    const edit = (some: Device[]) => setDialog(<DeviceDialog devices={some} close={close} done={done} />);
    const actions = [
        { verb: "Edit", may: mayUpdate(), destructive: false, act: edit },
        {
            verb: "Delete",
            may: may("FleetService.DeleteDevices"),
            destructive: true,
            act: (some: Device[]) => setDialog(<Dialog question={remove(some, done)} close={close} />),
        },
    ];
    const allowed = actions.filter((action) => action.may);
    const isEmpty = data && !devices.length && !data.next && !query.id && !query.where && !query.page;
    // A label narrows the list that is shown.
    const narrowed = (label: string) => {
        const terms = query.where?.split(",") ?? [];
        const where = (terms.includes(label) ? terms : [...terms, label]).join();
        return `/console/devices${search({ ...query, where, page: "" })}`;
    };
    return (
        <>
            <div class="heading">
                <h1>Devices</h1>
                <div class="buttons">
                    {query.where && may("CreateJob") && (
                        <a class="button" href={`/console/new?selector=${encodeURIComponent(query.where)}`}>
                            New job for these
                        </a>
                    )}
                    {mayUpdate() && (
                        <>
                            <button onClick={() => edit([])}>Register device…</button>
                            <button onClick={() => setDialog(<ImportDialog close={close} done={reload} />)}>
                                Import CSV…
                            </button>
                        </>
                    )}
                </div>
            </div>
            <Filters submit={(texts) => setQuery({ ...texts, page: "" })}>
                <FilterField name="id" label="Device starts with" value={query.id} />
                <Where key={query.where} start={query.where ?? ""} known={known} />
            </Filters>
            <SavedFilters />
            <Groups
                groups={known?.groups.slice(0, GROUPS_SHOWN) ?? []}
                onChoose={(group) => setQuery({ where: term("group", group), page: "" })}
            />
            {error && <ErrorNotice error={error} />}
            {isEmpty && <NoDevices isDevicesPage />}
            {data && !devices.length && !isEmpty && (
                <div class="card empty">
                    <p>{data.next ? "No device on this page; others can follow." : "No device matches."}</p>
                </div>
            )}
            {(devices.length > 0 || chosen.length > 0) && allowed.length > 0 && (
                <Selection
                    noun="device"
                    chosen={chosen}
                    isAll={devices.every((d) => selected.has(d.device_id))}
                    selectAll={(on) => select(devices, on)}
                    actions={allowed}
                >
                    {(query.page || data?.next) && (query.id || query.where || chosen.length > 0) && (
                        <button onClick={selectMatching}>Select up to {count(MAX_DEVICES)} that match</button>
                    )}
                    {chosen.length > 0 && <button onClick={() => setSelected(none)}>Select none</button>}
                </Selection>
            )}
            {devices.length > 0 && (
                <section class="card">
                    <div class="scroll" tabIndex={0} role="region" aria-label="Devices">
                        <Table
                            class="stack"
                            columns={{
                                Device: "",
                                Groups: "",
                                "Labels and facts": "",
                                "Time zone": "",
                                "Last seen": "",
                            }}
                        >
                            {devices.map((d) => (
                                <tr key={d.device_id}>
                                    <td>
                                        {allowed.length > 0 && (
                                            <input
                                                type="checkbox"
                                                checked={selected.has(d.device_id)}
                                                onChange={(e) => select([d], e.currentTarget.checked)}
                                                aria-label={`Select ${shown(d.device_id)}`}
                                            />
                                        )}{" "}
                                        <a href={devicePath(d.device_id)}>{shown(d.device_id)}</a>
                                    </td>
                                    <td>{d.group_ids.map(shown).join(", ")}</td>
                                    <td>
                                        <Labels labels={d.labels} href={narrowed} />
                                        <Labels
                                            labels={d.facts}
                                            name="Facts"
                                            prefix="fact."
                                            href={narrowed}
                                        />
                                    </td>
                                    <td class="extra">{shown(d.time_zone)}</td>
                                    <td class="quiet">
                                        <Time at={d.last_seen_at} none="never" />
                                    </td>
                                </tr>
                            ))}
                        </Table>
                    </div>
                </section>
            )}
            <Pager next={data?.next} label="Pages of devices" />
            {dialog}
        </>
    );
}

const mayUpdate = () => may("FleetService.UpdateDevices");

/** The selector of the form, until it is submitted. */
function Where({ start, known }: { start: string; known: FleetLabels | undefined }) {
    const [text, setText] = useState(start);
    return (
        <SelectorField
            name="where"
            label="Groups and labels"
            value={text}
            set={setText}
            known={known}
            placeholder="group in (north,south),model=x200,!quarantined"
        />
    );
}

/** The first groups, to choose from. */
function Groups(props: { groups: FleetLabels["groups"]; onChoose: (group: string) => void }) {
    const { groups, onChoose } = props;
    if (!groups.length) return null;
    return (
        <p class="quiet groups">
            Groups:{" "}
            {groups.map((g) => (
                <button
                    key={g.group_id}
                    class="small"
                    onClick={() => onChoose(g.group_id)}
                    title={counted(g.device_count, "device")}
                >
                    {shown(g.group_id)}
                </button>
            ))}
        </p>
    );
}
