/** The directory of devices: search by prefix, group and labels. */

import { api, page } from "../api/client";
import { counted, shown } from "../format";
import { useLoaded } from "../load";
import { ErrorNotice } from "../parts/notices";
import { Pager } from "../parts/pager";
import { Time } from "../parts/time";
import { devicePath, useQuery } from "../query";
import { may } from "../session";

const PAGE_SIZE = 100;
const POLL_MS = 10_000;

export function Devices() {
    const [query, setQuery] = useQuery();
    const { data, error } = useLoaded(
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
    const submit = (event: SubmitEvent) => {
        event.preventDefault();
        const form = new FormData(event.currentTarget as HTMLFormElement);
        const text = (name: string) => String(form.get(name) ?? "").trim();
        setQuery({ id: text("id"), where: text("where"), page: "" });
    };
    const devices = data?.items ?? [];
    return (
        <>
            <div class="heading">
                <h1>Devices</h1>
                {query.where && may("CreateJob") && (
                    <a class="button" href={`/console/new?selector=${encodeURIComponent(query.where)}`}>
                        New job for these
                    </a>
                )}
            </div>
            <form class="filters" onSubmit={submit} key={JSON.stringify(query)} role="search">
                <label>
                    Device starts with
                    <input name="id" defaultValue={query.id ?? ""} autocomplete="off" spellcheck={false} />
                </label>
                <label class="selector">
                    Groups and labels
                    <input
                        name="where"
                        defaultValue={query.where ?? ""}
                        placeholder="group in (north,south),model=x200,!quarantined"
                        autocomplete="off"
                        spellcheck={false}
                    />
                </label>
                <button>Filter</button>
            </form>
            <Groups onChoose={(group) => setQuery({ where: `group=${group}`, page: "" })} />
            {error && <ErrorNotice error={error} />}
            {data && !devices.length && (
                <div class="card empty">
                    <p>{data.next ? "No device on this page; others can follow." : "No device matches."}</p>
                </div>
            )}
            {devices.length > 0 && (
                <section class="card">
                    <div class="scroll" tabIndex={0} role="region" aria-label="Devices">
                        <table>
                            <thead>
                                <tr>
                                    <th>Device</th>
                                    <th>Groups</th>
                                    <th>Labels</th>
                                    <th>Time zone</th>
                                    <th>Last seen</th>
                                </tr>
                            </thead>
                            <tbody>
                                {devices.map((d) => (
                                    <tr key={d.device_id}>
                                        <td>
                                            <a href={devicePath(d.device_id)}>{shown(d.device_id)}</a>
                                        </td>
                                        <td>{d.group_ids.map(shown).join(", ")}</td>
                                        <td class="quiet">
                                            {Object.entries(d.labels)
                                                .map(([key, value]) => `${shown(key)}=${shown(value)}`)
                                                .join(" ")}
                                        </td>
                                        <td>{shown(d.time_zone)}</td>
                                        <td>
                                            <Time at={d.last_seen_at} />
                                        </td>
                                    </tr>
                                ))}
                            </tbody>
                        </table>
                    </div>
                </section>
            )}
            <Pager next={data?.next} label="Pages of devices" />
        </>
    );
}

/** The first groups, to choose from. */
function Groups({ onChoose }: { onChoose: (group: string) => void }) {
    const { data } = useLoaded("groups", (signal) =>
        page(api.GET("/customer/fleet/groups", { params: { query: { limit: 20 } }, signal })),
    );
    // A value of a selector with other characters needs quotes; then it is typed.
    const groups = (data?.items ?? []).filter((g) => /^[A-Za-z0-9._/-]+$/.test(g.group_id));
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
