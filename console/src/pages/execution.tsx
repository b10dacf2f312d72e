/** One device in one job: why it has not started, its attempts, and what it reported. */

import { useState } from "preact/hooks";
import * as actions from "../actions";
import { api, page, restPath } from "../api/client";
import { readExplanation, readJob } from "../api/reads";
import { command } from "../commands";
import { json, shown } from "../format";
import { useLoaded } from "../load";
import { Badge } from "../parts/badge";
import { Dialog, type Question } from "../parts/dialog";
import { ErrorPage } from "../parts/notices";
import { Reasons } from "../parts/reasons";
import { Table } from "../parts/table";
import { Terminal } from "../parts/terminal";
import { Time } from "../parts/time";
import { devicePath, jobPath, search, useQuery } from "../query";
import { may } from "../session";
import { useTitle } from "../title";
import { executionState, stageLabel, status } from "../words";

const POLL_MS = 3000;
const JOB_POLL_MS = 10_000;

const failureOf = (e: { device_id: string; status: string }): actions.Failure => ({
    status: e.status as actions.Failure["status"],
    deviceId: e.device_id,
    devices: 1,
});

const isPending = (status: string) => ["QUEUED", "HELD", "IN_PROGRESS"].includes(status);

export function Execution({ jobId, deviceId }: { jobId: string; deviceId: string }) {
    useTitle(`${deviceId} in ${jobId}`);
    // The filter of the list that led here: the way back keeps it.
    const [query] = useQuery();
    const [question, setQuestion] = useState<Question | null>(null);
    const path = { job_id: jobId, device_id: deviceId };
    const key = `${jobId} ${deviceId}`;
    const explanation = useLoaded(key, (signal) => readExplanation(jobId, deviceId, signal), POLL_MS);
    const { data, error, reload } = explanation;
    const e = data?.execution;
    const job = useLoaded(jobId, (signal) => readJob(jobId, signal), JOB_POLL_MS).data;
    const attempts = useLoaded(e ? `${key} ${e.execution_number} ${e.version}` : null, (signal) =>
        page(
            api.GET("/customer/jobs/{job_id}/executions/{device_id}/attempts", { params: { path }, signal }),
        ),
    );
    if (error) return <ErrorPage title={deviceId} error={error} />;
    if (!data || !e) return <p class="quiet loading">Loading {shown(deviceId)} …</p>;
    const get = {
        method: "GET",
        path: `${restPath("jobs", jobId, "executions", deviceId)}/explanation`,
    };
    const pending = isPending(e.status);
    return (
        <article>
            <p>
                <a href={jobPath(jobId) + search(query)}>← {shown(jobId)}</a>{" "}
                {job && <Badge word={status(job).word} tone={status(job).tone} />}
            </p>
            <div class="heading">
                <div>
                    <h1>{shown(deviceId)}</h1>
                    <p class="quiet">
                        <Badge {...executionState(e)} /> · attempt {e.execution_number}
                        {job && e.stage !== null && ` · ${stageLabel(job, e.stage)}`} · changed{" "}
                        <Time at={e.last_updated_at} />
                        {data.last_seen_at && (
                            <>
                                {" "}
                                · last seen <Time at={data.last_seen_at} />
                            </>
                        )}{" "}
                        · <a href={devicePath(deviceId)}>all jobs of the device</a>
                    </p>
                </div>
                <div class="buttons">
                    {job && actions.isFailure(e.status) && actions.canRetry(job) && (
                        <button onClick={() => setQuestion(actions.retry(job, failureOf(e), reload))}>
                            Retry…
                        </button>
                    )}
                    {pending && may("CancelExecution") && (
                        <button
                            class="danger"
                            onClick={() => setQuestion(actions.cancelExecution(jobId, e, reload))}
                        >
                            Cancel…
                        </button>
                    )}
                </div>
            </div>
            <section class="card" aria-labelledby="why">
                <h2 id="why">{pending && e.status !== "IN_PROGRESS" ? "Why it has not started" : "State"}</h2>
                <div class="pad">
                    <Reasons explanation={data} job={job} />
                    <Terminal command={command(["explain", jobId, deviceId], [], get)} />
                </div>
            </section>
            <section class="card" aria-labelledby="attempts">
                <h2 id="attempts">Attempts</h2>
                <div class="across">
                    <Table columns={{ Attempt: "", Status: "", Code: "", Started: "", Ended: "" }}>
                        {(attempts.data?.items ?? []).map((a) => {
                            return (
                                <tr key={a.execution_number}>
                                    <td>{a.execution_number}</td>
                                    <td>
                                        <Badge {...executionState(a)} />
                                    </td>
                                    <td>{a.failure_code && <code>{shown(a.failure_code)}</code>}</td>
                                    <td>
                                        <Time at={a.started_at} />
                                    </td>
                                    <td>
                                        <Time at={isPending(a.status) ? null : a.last_updated_at} />
                                    </td>
                                </tr>
                            );
                        })}
                    </Table>
                </div>
            </section>
            {e.status_details && (
                <section class="card" aria-labelledby="details">
                    <h2 id="details">
                        {e.end_cause && e.end_cause !== "DEVICE"
                            ? "Why it ended"
                            : "What the device reported"}
                    </h2>
                    <pre class="pad" tabIndex={0}>
                        {json(e.status_details)}
                    </pre>
                </section>
            )}
            {question && <Dialog question={question} close={() => setQuestion(null)} />}
        </article>
    );
}
