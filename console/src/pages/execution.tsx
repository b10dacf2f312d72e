/** One device in one job: why it has not started, its attempts, and what it reported. */

import { useState } from "preact/hooks";
import { api, body, page } from "../api/client";
import { readExplanation } from "../api/reads";
import { command } from "../commands";
import { json, shown } from "../format";
import { useLoaded } from "../load";
import { Badge } from "../parts/badge";
import { Dialog, type Question } from "../parts/dialog";
import { ErrorNotice } from "../parts/notices";
import { Terminal } from "../parts/terminal";
import { Time } from "../parts/time";
import { jobPath } from "../query";
import { may } from "../session";
import { executionWords } from "../words";

const POLL_MS = 3000;

const isPending = (status: string) => ["QUEUED", "HELD", "IN_PROGRESS"].includes(status);

export function Execution({ jobId, deviceId }: { jobId: string; deviceId: string }) {
    const [question, setQuestion] = useState<Question | null>(null);
    const path = { job_id: jobId, device_id: deviceId };
    const key = `${jobId} ${deviceId}`;
    const explanation = useLoaded(key, (signal) => readExplanation(jobId, deviceId, signal), POLL_MS);
    const { data, error, reload } = explanation;
    const e = data?.execution;
    const attempts = useLoaded(e ? `${key} ${e.execution_number} ${e.version}` : null, (signal) =>
        page(
            api.GET("/customer/jobs/{job_id}/executions/{device_id}/attempts", { params: { path }, signal }),
        ),
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
    if (!data || !e) return <p class="quiet loading">Loading {shown(deviceId)} …</p>;
    const s = executionWords[e.status];
    const restPath = `/customer/jobs/${encodeURIComponent(jobId)}/executions/${encodeURIComponent(deviceId)}`;
    const pending = isPending(e.status);
    const force = e.status === "IN_PROGRESS";
    const cancel: Question = {
        title: `Cancel ${jobId} on ${deviceId}?`,
        children: force
            ? "The device has started. It is told only when it reports; this can't be undone."
            : "The device will never start it. This can't be undone.",
        action: "Cancel execution",
        destructive: true,
        command: command(["cancel", jobId, "--device", deviceId, force && "--force"], "DELETE", restPath, {
            force,
        }),
        run: async () => {
            await body(
                api.DELETE("/customer/jobs/{job_id}/executions/{device_id}", {
                    params: { path },
                    body: { force },
                }),
            );
            reload();
        },
    };
    return (
        <article>
            <p>
                <a href={jobPath(jobId)}>← {shown(jobId)}</a>
            </p>
            <div class="heading">
                <div>
                    <h1>{shown(deviceId)}</h1>
                    <p class="quiet">
                        {s && <Badge word={s.word} tone={s.tone} />} · attempt {e.execution_number} · changed{" "}
                        <Time at={e.last_updated_at} />
                        {data.last_seen_at && (
                            <>
                                {" "}
                                · last seen <Time at={data.last_seen_at} />
                            </>
                        )}
                    </p>
                </div>
                {pending && may("CancelExecution") && (
                    <div class="buttons">
                        <button class="danger" onClick={() => setQuestion(cancel)}>
                            Cancel…
                        </button>
                    </div>
                )}
            </div>
            <section class="card" aria-labelledby="why">
                <h2 id="why">{pending && !force ? "Why it has not started" : "State"}</h2>
                <div class="pad">
                    {data.earliest_start_at && (
                        <p>
                            It can start <Time at={data.earliest_start_at} /> at the earliest.
                        </p>
                    )}
                    <ul class="reasons">
                        {(data.blockers ?? []).map((b) => (
                            <li key={b.kind}>
                                {shown(b.message)}
                                {b.other_job_id && (
                                    <>
                                        {" "}
                                        <a href={jobPath(b.other_job_id)}>{shown(b.other_job_id)}</a>
                                    </>
                                )}
                            </li>
                        ))}
                    </ul>
                    {!data.blockers?.length && <p class="quiet">Nothing holds it.</p>}
                    <Terminal
                        command={command(["explain", jobId, deviceId], "GET", `${restPath}/explanation`)}
                    />
                </div>
            </section>
            <section class="card" aria-labelledby="attempts">
                <h2 id="attempts">Attempts</h2>
                <div class="across">
                    <table>
                        <thead>
                            <tr>
                                <th class="number">Attempt</th>
                                <th>Status</th>
                                <th>Code</th>
                                <th>Started</th>
                                <th>Ended</th>
                            </tr>
                        </thead>
                        <tbody>
                            {(attempts.data?.items ?? []).map((a) => {
                                const word = executionWords[a.status];
                                return (
                                    <tr key={a.execution_number}>
                                        <td class="number">{a.execution_number}</td>
                                        <td>{word && <Badge word={word.word} tone={word.tone} />}</td>
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
                        </tbody>
                    </table>
                </div>
            </section>
            {e.status_details && (
                <section class="card" aria-labelledby="details">
                    <h2 id="details">What the device reported</h2>
                    <pre class="pad" tabIndex={0}>
                        {json(e.status_details)}
                    </pre>
                </section>
            )}
            {question && <Dialog question={question} close={() => setQuestion(null)} />}
        </article>
    );
}
