/** One device: its queue in order, why it does not start, and its history. */

import { api, body, page } from "../api/client";
import { readExplanation } from "../api/reads";
import { command } from "../commands";
import { shown } from "../format";
import { useLoaded } from "../load";
import { Badge } from "../parts/badge";
import { Labels } from "../parts/labels";
import { ErrorNotice } from "../parts/notices";
import { Pager } from "../parts/pager";
import { Terminal } from "../parts/terminal";
import { Time } from "../parts/time";
import { executionPath, jobPath, useQuery } from "../query";
import { may } from "../session";
import { executionWords } from "../words";

const POLL_MS = 5000;
// Each explanation is a call.
const EXPLAINED = 5;
const PAGE_SIZE = 50;

export function Device({ deviceId }: { deviceId: string }) {
    const path = { device_id: deviceId };
    const { data, error } = useLoaded(
        deviceId,
        (signal) => body(api.GET("/customer/fleet/devices/{device_id}", { params: { path }, signal })),
        POLL_MS,
    );
    if (error)
        return (
            <>
                <div class="heading">
                    <h1>{shown(deviceId)}</h1>
                </div>
                <ErrorNotice error={error} />
            </>
        );
    if (!data) return <p class="quiet loading">Loading {shown(deviceId)} …</p>;
    const device = data.device;
    const restPath = `/customer/fleet/devices/${encodeURIComponent(deviceId)}`;
    return (
        <article>
            <div class="heading">
                <div>
                    <h1>{shown(deviceId)}</h1>
                    <p class="quiet">
                        last seen <Time at={device?.last_seen_at} /> · groups{" "}
                        {device?.group_ids.map(shown).join(", ") || "none"} · time zone{" "}
                        {shown(device?.time_zone || "unknown")}
                    </p>
                    <Labels
                        labels={device?.labels ?? {}}
                        href={(label) => `/console/devices?where=${label}`}
                    />
                </div>
                {may("CreateJob") && (
                    <div class="buttons">
                        <a class="button" href={`/console/new?device=${encodeURIComponent(deviceId)}`}>
                            New job for it
                        </a>
                    </div>
                )}
            </div>
            <section class="card" aria-labelledby="queue">
                <h2 id="queue">Queue, in order</h2>
                {!data.executions?.length && <p class="pad quiet">Nothing waits for this device.</p>}
                <ol class="queue">
                    {(data.executions ?? []).map((e, index) => {
                        const s = executionWords[e.status];
                        return (
                            <li key={e.job_id} class="pad">
                                <a href={executionPath(e.job_id ?? "", deviceId)}>{shown(e.job_id ?? "")}</a>{" "}
                                {s && <Badge word={s.word} tone={s.tone} />}
                                {index < EXPLAINED && e.status !== "IN_PROGRESS" && (
                                    <Why jobId={e.job_id ?? ""} deviceId={deviceId} />
                                )}
                            </li>
                        );
                    })}
                </ol>
                <div class="pad">
                    <Terminal command={command(["devices", "get", deviceId], "GET", restPath)} />
                </div>
            </section>
            <Past deviceId={deviceId} />
        </article>
    );
}

function Why({ jobId, deviceId }: { jobId: string; deviceId: string }) {
    const { data } = useLoaded(
        `${jobId} ${deviceId}`,
        (signal) => readExplanation(jobId, deviceId, signal),
        POLL_MS,
    );
    if (!data) return null;
    return (
        <ul class="reasons quiet">
            {(data.blockers ?? []).map((b) => (
                <li key={b.kind}>{shown(b.message)}</li>
            ))}
            {data.earliest_start_at && (
                <li>
                    It can start <Time at={data.earliest_start_at} /> at the earliest.
                </li>
            )}
        </ul>
    );
}

function Past({ deviceId }: { deviceId: string }) {
    const [query] = useQuery();
    const { data, error } = useLoaded(
        `${deviceId} ${query.page ?? ""}`,
        (signal) =>
            page(
                api.GET("/customer/devices/{device_id}/executions", {
                    params: {
                        path: { device_id: deviceId },
                        query: { limit: PAGE_SIZE, page_token: query.page || undefined },
                    },
                    signal,
                }),
            ),
        POLL_MS,
    );
    return (
        <section class="card" aria-labelledby="past">
            <h2 id="past">All its jobs</h2>
            {error && <ErrorNotice error={error} />}
            <div class="across">
                <table>
                    <thead>
                        <tr>
                            <th>Job</th>
                            <th>Status</th>
                            <th>Code</th>
                            <th class="number">Attempt</th>
                            <th>Changed</th>
                        </tr>
                    </thead>
                    <tbody>
                        {(data?.items ?? []).map((e) => {
                            const s = executionWords[e.status];
                            return (
                                <tr key={e.job_id}>
                                    <td>
                                        <a href={executionPath(e.job_id ?? "", deviceId)}>
                                            {shown(e.job_id ?? "")}
                                        </a>{" "}
                                        <a class="quiet" href={jobPath(e.job_id ?? "")}>
                                            (job)
                                        </a>
                                    </td>
                                    <td>{s && <Badge word={s.word} tone={s.tone} />}</td>
                                    <td>{e.failure_code && <code>{shown(e.failure_code)}</code>}</td>
                                    <td class="number">{e.execution_number}</td>
                                    <td>
                                        <Time at={e.last_updated_at} />
                                    </td>
                                </tr>
                            );
                        })}
                    </tbody>
                </table>
            </div>
            <Pager next={data?.next} label="Pages of jobs" />
        </section>
    );
}
