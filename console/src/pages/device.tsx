/** One device: its queue in order, why it does not start, and its history. */

import type { ComponentChildren } from "preact";
import { useLocation } from "preact-iso";
import { useState } from "preact/hooks";
import { api, body, page, restPath, type Execution } from "../api/client";
import { readExplanation, readJob } from "../api/reads";
import { command } from "../commands";
import { remove } from "../devices";
import { shown } from "../format";
import { useLoaded } from "../load";
import { Badge } from "../parts/badge";
import { DeviceDialog } from "../parts/device-dialog";
import { Dialog } from "../parts/dialog";
import { ExecutionTable } from "../parts/execution-table";
import { Labels } from "../parts/labels";
import { JobLink } from "../parts/links";
import { ErrorNotice, ErrorPage } from "../parts/notices";
import { Pager } from "../parts/pager";
import { Reasons } from "../parts/reasons";
import { Terminal } from "../parts/terminal";
import { Time } from "../parts/time";
import { executionPath, search, useQuery } from "../query";
import { may } from "../session";
import { useTitle } from "../title";
import { executionState } from "../words";

const POLL_MS = 5000;
// Each explanation is a call.
const EXPLAINED = 5;
const WHY_POLL_MS = 10_000;
const HELD_SHOWN = 50;
const PAGE_SIZE = 50;

export function Device({ deviceId }: { deviceId: string }) {
    useTitle(deviceId);
    const path = { device_id: deviceId };
    const { route } = useLocation();
    const [dialog, setDialog] = useState<ComponentChildren>(null);
    const { data, error, reload } = useLoaded(
        deviceId,
        (signal) => body(api.GET("/customer/fleet/devices/{device_id}", { params: { path }, signal })),
        POLL_MS,
    );
    const queue = data?.executions ?? [];
    const held = useHeld(deviceId, queue);
    if (error) return <ErrorPage title={deviceId} error={error} />;
    if (!data) return <p class="quiet loading">Loading {shown(deviceId)} …</p>;
    const device = data.device;
    const close = () => setDialog(null);
    const edit = () => setDialog(<DeviceDialog devices={[device]} close={close} done={reload} />);
    const askRemove = () => {
        const question = remove([device], () => route("/console/devices"));
        setDialog(<Dialog question={question} close={close} />);
    };
    return (
        <article>
            <div class="heading">
                <div>
                    <h1>{shown(deviceId)}</h1>
                    <p class="quiet">
                        {device?.last_seen_at ? (
                            <>
                                last seen <Time at={device.last_seen_at} none="never" />
                            </>
                        ) : (
                            "never seen"
                        )}{" "}
                        · groups {device?.group_ids.map(shown).join(", ") || "none"} · time zone{" "}
                        {shown(device?.time_zone || "unknown")}
                    </p>
                    <Labels
                        labels={device?.labels ?? {}}
                        href={(label) => `/console/devices${search({ where: label })}`}
                    />
                    {device && Object.keys(device.facts).length > 0 && (
                        <p class="quiet">
                            Facts reported by the device, last changed <Time at={device.facts_updated_at} />:
                        </p>
                    )}
                    <Labels
                        labels={device?.facts ?? {}}
                        name="Facts"
                        prefix="fact."
                        href={(fact) => `/console/devices${search({ where: fact })}`}
                    />
                </div>
                <div class="buttons">
                    {may("CreateJob") && (
                        <a class="button" href={`/console/new?device=${encodeURIComponent(deviceId)}`}>
                            New job for this device
                        </a>
                    )}
                    {may("FleetService.UpdateDevices") && <button onClick={edit}>Edit…</button>}
                    {may("FleetService.DeleteDevices") && (
                        <button class="danger" onClick={askRemove}>
                            Delete…
                        </button>
                    )}
                </div>
            </div>
            <section class="card" aria-labelledby="queue">
                <h2 id="queue">Queue, in order</h2>
                <Pending
                    deviceId={deviceId}
                    executions={queue}
                    empty={held.length ? "The queue is empty." : "Nothing waits for this device."}
                />
                {held.length > 0 && (
                    <>
                        <h3 class="pad">Held back by their jobs</h3>
                        <Pending deviceId={deviceId} executions={held} empty="" />
                    </>
                )}
                <div class="pad">
                    <Terminal
                        command={command(["devices", "get", deviceId], [], {
                            method: "GET",
                            path: restPath("fleet", "devices", deviceId),
                        })}
                    />
                </div>
            </section>
            <Past deviceId={deviceId} />
            {dialog}
        </article>
    );
}

/** Executions that have not ended, each with the reasons why it does not start. */
function Pending(props: { deviceId: string; executions: Execution[]; empty: string }) {
    const { deviceId, executions, empty } = props;
    if (!executions.length) return <p class="pad quiet">{empty}</p>;
    return (
        <ol class="queue">
            {executions.map((e, index) => {
                const jobId = e.job_id ?? "";
                return (
                    <li key={jobId} class="pad">
                        <JobLink id={jobId} href={executionPath(jobId, deviceId)} />{" "}
                        <Badge {...executionState(e)} />
                        {e.status !== "IN_PROGRESS" && (
                            <Why jobId={jobId} deviceId={deviceId} atOnce={index < EXPLAINED} />
                        )}
                    </li>
                );
            })}
        </ol>
    );
}

function Why({ jobId, deviceId, atOnce }: { jobId: string; deviceId: string; atOnce: boolean }) {
    const [asked, setAsked] = useState(atOnce);
    const { data } = useLoaded(
        asked ? `${jobId} ${deviceId}` : null,
        (signal) => readExplanation(jobId, deviceId, signal),
        WHY_POLL_MS,
    );
    // Only the job has the names of its stages.
    const needsJob = data?.blockers.some((b) => b.stage_gate);
    const { data: job } = useLoaded(needsJob ? jobId : null, (signal) => readJob(jobId, signal), WHY_POLL_MS);
    if (!asked)
        return (
            <button class="small" onClick={() => setAsked(true)} aria-label={`Why does ${jobId} not start?`}>
                Why?
            </button>
        );
    return data ? <Reasons explanation={data} job={job} /> : null;
}

/**
 * The executions that the queue leaves out: HELD ones, and QUEUED ones of paused jobs. The device gets them
 * when their job lets it.
 */
function useHeld(deviceId: string, queue: Execution[]): Execution[] {
    const { data } = useLoaded(
        deviceId,
        (signal) =>
            Promise.all(
                (["HELD", "QUEUED"] as const).map((status) =>
                    page(
                        api.GET("/customer/devices/{device_id}/executions", {
                            params: { path: { device_id: deviceId }, query: { status, limit: HELD_SHOWN } },
                            signal,
                        }),
                    ),
                ),
            ),
        POLL_MS,
    );
    const inQueue = new Set(queue.map((e) => e.job_id));
    return (data ?? []).flatMap((list) => list.items).filter((e) => !inQueue.has(e.job_id));
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
            <h2 id="past">All jobs of this device</h2>
            {error && <ErrorNotice error={error} />}
            <div class="across">
                <ExecutionTable
                    by="Job"
                    executions={data?.items ?? []}
                    href={(e) => executionPath(e.job_id ?? "", deviceId)}
                />
            </div>
            <Pager next={data?.next} label="Pages of jobs" />
        </section>
    );
}
