/** The failures of a job by code, with sample devices. */

import * as actions from "../actions";
import { api, body, type FailureCount, type Job } from "../api/client";
import { count, counted, shown } from "../format";
import { useLoaded } from "../load";
import { executionPath, jobPath, search } from "../query";
import { executionWords, failures, stageLabel } from "../words";
import { showDetails } from "./details";
import type { Question } from "./dialog";
import { Links } from "./links";
import { ErrorNotice } from "./notices";
import { Table } from "./table";

const SAMPLES = 3;

interface Props {
    job: Job;
    ask: (question: Question) => void;
    done: () => Promise<void>;
}

export function Failures(props: Props) {
    const { job } = props;
    const { data, error } = useLoaded(
        failures(job.execution_counts) ? job.job_id : null,
        (signal) =>
            body(
                api.GET("/customer/jobs/{job_id}/failures", {
                    params: { path: { job_id: job.job_id } },
                    signal,
                }),
            ),
        0,
        job,
    );
    if (error) return <ErrorNotice error={error} />;
    if (!data?.failures.length) return null;
    // The counts of the job are newer than the rows.
    const total = data.failures.reduce((sum, f) => sum + f.execution_count, data.other_failure_count);
    return (
        <section class="card" aria-labelledby="failures">
            <h2>
                <span id="failures">Failures by code</span>
                <span class="quiet">{counted(total, "device")}</span>
            </h2>
            <div class="across">
                <Table class="stack" columns={{ Code: "", Devices: "number", "For example": "", "": "" }}>
                    {data.failures.map((f) => (
                        <Row key={`${f.status} ${f.failure_code}`} failure={f} {...props} />
                    ))}
                </Table>
            </div>
            {data.other_failure_count > 0 && (
                <p class="pad quiet">{counted(data.other_failure_count, "other failure")}</p>
            )}
        </section>
    );
}

function Row({ failure: f, job, ask, done }: Props & { failure: FailureCount }) {
    const retried = {
        status: f.status as actions.Failure["status"],
        code: f.failure_code,
        devices: f.execution_count,
    };
    return (
        <tr>
            <td>
                {f.failure_code ? <code>{shown(f.failure_code)}</code> : <span class="quiet">no code</span>}
                {f.status !== "FAILED" && (
                    <span class="quiet"> {executionWords[f.status]?.word.toLowerCase()}</span>
                )}
                <ByStage job={job} failure={f} />
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
                <Links ids={f.device_ids.slice(0, SAMPLES)} href={(id) => executionPath(job.job_id, id)} />
            </td>
            <td class="number">
                {actions.canRetry(job) && (
                    <button class="link" onClick={() => ask(actions.retry(job, retried, done))}>
                        Retry these…
                    </button>
                )}
            </td>
        </tr>
    );
}

/** Leads to the devices of each stage that can have the failure: the API does not count codes by stage. */
function ByStage({ job, failure: f }: { job: Job; failure: FailureCount }) {
    const status = f.status.toLowerCase() as "failed" | "timed_out" | "rejected";
    const stages = (job.stages ?? []).flatMap((s, index) => (s.execution_counts[status] ? [index] : []));
    // Of more stages than devices, some have no such failure.
    if (!f.failure_code || !stages.length || stages.length > f.execution_count) return null;
    return (
        <p class="quiet">
            by stage:{" "}
            {stages.map((stage, index) => (
                <span key={stage}>
                    {index > 0 && ", "}
                    <a
                        href={devicesOf(job, f, stage)}
                        onClick={showDetails}
                        aria-label={`Devices of ${stageLabel(job, stage)} with ${f.failure_code}`}
                    >
                        {stageLabel(job, stage)}
                    </a>
                </span>
            ))}
        </p>
    );
}

/** The list of the devices with a failure, of all stages or of one. */
function devicesOf(job: Job, failure: FailureCount, stage?: number): string {
    const { status, failure_code: code } = failure;
    return (
        jobPath(job.job_id) +
        search({ tab: "executions", status, code, stage: stage === undefined ? "" : String(stage) })
    );
}
