/** The first page: when devices were last seen, what waits for the person, what runs, and what fails. */

import type { ComponentChildren } from "preact";
import { api, body, page, type FleetSummary, type Job } from "../api/client";
import { count, counted, percent, shown } from "../format";
import { useLoaded } from "../load";
import { Badge } from "../parts/badge";
import { Bar } from "../parts/bar";
import { JobLink, Links } from "../parts/links";
import { NoDevices } from "../parts/no-devices";
import { ErrorNotice } from "../parts/notices";
import { Table } from "../parts/table";
import { Time } from "../parts/time";
import { jobPath, search } from "../query";
import { may } from "../session";
import { useTitle } from "../title";
import { approvable, waiting } from "../waiting";
import { executionWords, status, unfinished } from "../words";

const JOBS_SHOWN = 10;
const POLL_MS = 5000;
// The service computes the summary at most once a minute.
const SUMMARY_POLL_MS = 30_000;

export function Fleet() {
    useTitle("Fleet");
    const { data: summary, error } = useLoaded(
        may("FleetService.GetFleetSummary") ? "summary" : null,
        (signal) => body(api.GET("/customer/fleet/summary", { signal })),
        SUMMARY_POLL_MS,
    );
    const { data: jobs, error: jobsError } = useLoaded(
        "jobs",
        (signal) => Promise.all([listJobs("PAUSED", signal), listJobs("IN_PROGRESS", signal)]),
        POLL_MS,
    );
    const [paused, running] = jobs ?? [];
    const isEmpty = summary?.device_count === 0;
    const problem = error ?? jobsError;
    // What this person may decide.
    const approvals = approvable.value;
    const isApproval = (job: Job) => approvals.some((other) => other.job_id === job.job_id);
    const stopped = may("ResumeJob") ? (paused ?? []).filter((job) => !isApproval(job)) : [];
    return (
        <>
            <div class="heading">
                <div>
                    <h1>Fleet</h1>
                    {summary && (
                        <p class="quiet">
                            {counted(summary.device_count, "device")}, counted{" "}
                            <Time at={summary.computed_at} />
                        </p>
                    )}
                </div>
                {may("CreateJob") && !isEmpty && (
                    <a class="button primary" href="/console/new">
                        New job
                    </a>
                )}
            </div>
            {problem && <ErrorNotice error={problem} />}
            {isEmpty && <NoDevices />}
            <div class="fleet">
                <div>
                    <Jobs
                        id="waits"
                        title="Waiting for you"
                        jobs={paused && [...approvals.slice(0, JOBS_SHOWN), ...stopped]}
                        total={summary?.jobs.paused}
                        status="PAUSED"
                        empty="No approvals or paused jobs are waiting for you."
                    >
                        {approvals.length > JOBS_SHOWN && <a href="/console/approvals">All approvals</a>}
                    </Jobs>
                    <Jobs
                        id="running"
                        title="Running jobs"
                        jobs={running?.filter((job) => !isApproval(job))}
                        total={summary?.jobs.in_progress}
                        status="IN_PROGRESS"
                        empty="No other job is running."
                    />
                </div>
                {summary && !isEmpty && (
                    <div>
                        <LastSeen summary={summary} />
                        <Failures summary={summary} />
                    </div>
                )}
            </div>
        </>
    );
}

async function listJobs(status: "PAUSED" | "IN_PROGRESS", signal: AbortSignal) {
    const query = { status, limit: JOBS_SHOWN };
    return (await page(api.GET("/customer/jobs", { params: { query }, signal }))).items;
}

/** A card of jobs; `total` is the number of all jobs with this `status`. */
function Jobs(props: {
    id: string;
    title: string;
    /** undefined: not read yet. */
    jobs: Job[] | undefined;
    total: number | undefined;
    status: "PAUSED" | "IN_PROGRESS";
    empty: string;
    /** Another link. */
    children?: ComponentChildren;
}) {
    const { id, title, jobs, total = 0, status, empty, children } = props;
    if (!jobs) return null;
    return (
        <section class="card" aria-labelledby={id}>
            <h2>
                <span id={id}>{title}</span>
                {children}
                {total > JOBS_SHOWN && (
                    <a href={`/console/jobs?status=${status}`}>
                        All {count(total)} {status === "PAUSED" ? "paused jobs" : "running jobs"}
                    </a>
                )}
            </h2>
            {!jobs.length && <p class="pad quiet">{empty}</p>}
            {jobs.length > 0 && (
                <ul class="fleet-jobs">
                    {jobs.map((job) => (
                        <Line key={job.job_id} job={job} />
                    ))}
                </ul>
            )}
        </section>
    );
}

function Line({ job }: { job: Job }) {
    const isJob = (other: Job) => other.job_id === job.job_id;
    const awaits = waiting.value?.items.some(isJob);
    const s = status(job, awaits);
    const isOthers = awaits && job.status !== "PAUSED" && !approvable.value.some(isJob);
    const { execution_counts: counts, total_executions: total } = job;
    return (
        <li>
            <p>
                <JobLink id={job.job_id} /> <Badge word={s.word} tone={s.tone} />{" "}
                <span class="quiet">{s.detail + (isOthers ? " from another user" : "")}</span>
            </p>
            <Bar counts={counts} total={total} label={shown(job.job_id)} />
            <span class="quiet">
                {count(total - unfinished(counts))} of {count(total)}
            </span>
        </li>
    );
}

const ages = {
    within_hour: "in the last hour",
    within_day: "1–24 hours ago",
    within_week: "1–7 days ago",
    earlier: "more than 7 days ago",
    never: "never",
};

function LastSeen({ summary }: { summary: FleetSummary }) {
    return (
        <section class="card" aria-labelledby="seen">
            <h2>
                <span id="seen">Devices by last seen</span>
                <a href="/console/devices">All devices</a>
            </h2>
            <table class="seen">
                <tbody>
                    {(Object.entries(ages) as [keyof typeof ages, string][]).map(([age, text]) => {
                        const n = summary.last_seen[age];
                        return (
                            <tr key={age}>
                                <th scope="row">{text}</th>
                                <td class="wide">
                                    <svg
                                        class="bar"
                                        viewBox="0 0 1000 10"
                                        preserveAspectRatio="none"
                                        aria-hidden="true"
                                    >
                                        <rect class="held" width="1000" height="10" />
                                        <rect
                                            class="busy"
                                            width={(n / summary.device_count) * 1000}
                                            height="10"
                                        />
                                    </svg>
                                </td>
                                <td class="number">{count(n)}</td>
                                <td class="number quiet">{percent(n, summary.device_count)}</td>
                            </tr>
                        );
                    })}
                </tbody>
            </table>
        </section>
    );
}

function Failures({ summary }: { summary: FleetSummary }) {
    const { failures, other_failure_count: others } = summary;
    const total = failures.reduce((sum, f) => sum + f.execution_count, others);
    return (
        <section class="card" aria-labelledby="codes">
            <h2>
                <span id="codes">Failures in active jobs</span>
                {total > 0 && <span class="quiet">{counted(total, "failure")}</span>}
            </h2>
            {!total && <p class="pad quiet">There are no failures in active jobs.</p>}
            {failures.length > 0 && (
                <div class="across">
                    <Table columns={{ Code: "", Failures: "number", Jobs: "" }}>
                        {failures.map((f) => (
                            <Failure key={`${f.status} ${f.failure_code}`} failure={f} />
                        ))}
                    </Table>
                </div>
            )}
            {others > 0 && <p class="pad quiet">{counted(others, "other failure")}</p>}
        </section>
    );
}

function Failure({ failure: f }: { failure: FleetSummary["failures"][number] }) {
    const more = f.job_count - f.job_ids.length;
    // The list of devices has no filter for failures without a code.
    const filter = f.failure_code && search({ tab: "executions", status: f.status, code: f.failure_code });
    const word = executionWords[f.status]?.word.toLowerCase();
    return (
        <tr>
            <td>
                {f.failure_code ? <code>{shown(f.failure_code)}</code> : <span class="quiet">no code</span>}
                {f.status !== "FAILED" && <span class="quiet"> {word}</span>}
            </td>
            <td class="number">{count(f.execution_count)}</td>
            <td>
                <Links ids={f.job_ids} href={(id) => jobPath(id) + filter} />
                {more > 0 && ` and ${count(more)} more`}
            </td>
        </tr>
    );
}
