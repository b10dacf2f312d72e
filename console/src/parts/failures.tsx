/** The failures of a job by code, with sample devices. */

import * as actions from "../actions";
import { api, body, type Job } from "../api/client";
import { count, counted, shown } from "../format";
import { useLoaded } from "../load";
import { executionPath, jobPath, search } from "../query";
import { executionWords, failures, isActive } from "../words";
import { showDetails } from "./details";
import type { Question } from "./dialog";
import { ErrorNotice } from "./notices";

const POLL_MS = 3000;

function devicesOf(job: Job, failure: { status: string; failure_code: string }): string {
    const { status, failure_code: code } = failure;
    return jobPath(job.job_id) + search({ tab: "executions", status, code });
}

export function Failures(props: { job: Job; ask: (question: Question) => void; done: () => Promise<void> }) {
    const { job, ask, done } = props;
    const failed = failures(job.execution_counts);
    const { data, error } = useLoaded(
        failed ? job.job_id : null,
        (signal) =>
            body(
                api.GET("/customer/jobs/{job_id}/failures", {
                    params: { path: { job_id: job.job_id } },
                    signal,
                }),
            ),
        isActive(job) ? POLL_MS : 0,
        JSON.stringify(job.execution_counts),
    );
    if (!failed) return null;
    return (
        <section class="card" aria-labelledby="failures">
            <h2>
                <span id="failures">Failures by code</span>
                <span class="quiet">{counted(failed, "device")}</span>
            </h2>
            {error && <ErrorNotice error={error} />}
            <div class="across">
                <table class="stack">
                    <thead>
                        <tr>
                            <th>Code</th>
                            <th class="number">Devices</th>
                            <th>For example</th>
                            <td />
                        </tr>
                    </thead>
                    <tbody>
                        {(data?.failures ?? []).map((f) => (
                            <tr key={`${f.status} ${f.failure_code}`}>
                                <td>
                                    {f.failure_code ? (
                                        <code>{shown(f.failure_code)}</code>
                                    ) : (
                                        <span class="quiet">no code</span>
                                    )}
                                    {f.status !== "FAILED" && (
                                        <span class="quiet">
                                            {" "}
                                            {executionWords[f.status]?.word.toLowerCase()}
                                        </span>
                                    )}
                                </td>
                                <td class="number">
                                    {f.failure_code ? (
                                        <a
                                            href={devicesOf(job, f)}
                                            onClick={showDetails}
                                            aria-label={`${counted(f.execution_count, "device")} with ${f.failure_code}`}
                                        >
                                            {count(f.execution_count)}
                                        </a>
                                    ) : (
                                        // REST has no filter for an empty code.
                                        count(f.execution_count)
                                    )}
                                </td>
                                <td>
                                    {f.device_ids.slice(0, 3).map((id, index) => (
                                        <span key={id}>
                                            {index > 0 && ", "}
                                            <a href={executionPath(job.job_id, id)}>{shown(id)}</a>
                                        </span>
                                    ))}
                                </td>
                                <td class="number">
                                    {actions.canRetry(job) && (
                                        <button
                                            class="link"
                                            onClick={() =>
                                                ask(
                                                    actions.retry(
                                                        job,
                                                        {
                                                            status: f.status as actions.Failure["status"],
                                                            code: f.failure_code,
                                                            devices: f.execution_count,
                                                        },
                                                        done,
                                                    ),
                                                )
                                            }
                                        >
                                            Retry these…
                                        </button>
                                    )}
                                </td>
                            </tr>
                        ))}
                    </tbody>
                </table>
            </div>
            {(data?.other_count ?? 0) > 0 && (
                <p class="pad quiet">{counted(data?.other_count ?? 0, "failure")} with other codes</p>
            )}
        </section>
    );
}
