/** One job, live: what happens, why, and what to do next. */

import { useLocation } from "preact-iso";
import { useEffect, useState } from "preact/hooks";
import * as actions from "../actions";
import { ApiError, restPath, type Job as JobState } from "../api/client";
import { readJob } from "../api/reads";
import { readStream } from "../api/stream";
import { command } from "../commands";
import { count, counted, json, shown } from "../format";
import { noteOutcome } from "../load";
import { useApproval } from "../parts/approval";
import { Badge } from "../parts/badge";
import { Bar } from "../parts/bar";
import { Criteria } from "../parts/criteria";
import { showDetails } from "../parts/details";
import { Dialog, type Question } from "../parts/dialog";
import { Executions } from "../parts/executions";
import { Failures } from "../parts/failures";
import { History, LastEvents } from "../parts/history";
import { Labels } from "../parts/labels";
import { ErrorNotice, ErrorPage } from "../parts/notices";
import { Settings } from "../parts/settings";
import { Stages } from "../parts/stages";
import { Tabs } from "../parts/tabs";
import { Terminal } from "../parts/terminal";
import { Time, ago } from "../parts/time";
import { JobTimeline } from "../parts/timeline";
import { useOpenings } from "../openings";
import { jobPath, search, useQuery } from "../query";
import { may } from "../session";
import { useTitle } from "../title";
import { allows } from "../waits";
import {
    awaitingApproval,
    executionWords,
    failures,
    isActive,
    notice,
    status,
    target,
    windows,
} from "../words";

/** The job as the stream last told it. */
function useJob(jobId: string) {
    const [job, setJob] = useState<JobState | null>(null);
    const [error, setError] = useState<ApiError | null>(null);
    const [round, setRound] = useState(0);
    useEffect(() => {
        const controller = new AbortController();
        setError(null);
        readStream(
            `${restPath("jobs", jobId)}:watch`,
            controller.signal,
            (event) => setJob(JSON.parse(event.data) as JobState),
            noteOutcome,
        ).catch((e: ApiError) => {
            if (!controller.signal.aborted) setError(e);
        });
        return () => controller.abort();
    }, [jobId, round]);
    // The next action needs the etag of now. The stream of a finished job has ended: a retry needs a new one.
    const reload = async () => {
        await readJob(jobId).then(setJob, () => {}); // otherwise, the stream tells
        setRound((n) => n + 1);
    };
    return { job: job?.job_id === jobId ? job : null, error, reload };
}

export function Job({ jobId }: { jobId: string }) {
    const { job, error, reload } = useJob(jobId);
    const [question, setQuestion] = useState<Question | null>(null);
    const [query] = useQuery();
    useTitle(job ? `${jobId}: ${status(job).word}` : jobId);
    if (error && (!job || error.reason === "JOB_NOT_FOUND")) return <ErrorPage title={jobId} error={error} />;
    if (!job) return <p class="quiet loading">Loading {shown(jobId)} …</p>;
    return (
        <article>
            {error && <ErrorNotice error={error} />}
            <Heading job={job} ask={setQuestion} done={reload} />
            {/* The comment of one approval is not that of the next. */}
            <Notice key={approvalKey(job)} job={job} ask={setQuestion} done={reload} />
            <Numbers job={job} />
            <JobTimeline job={job} />
            <Stages job={job} />
            <div class="columns">
                <Failures job={job} ask={setQuestion} done={reload} />
                <Criteria job={job} />
            </div>
            {query.tab !== "history" && <LastEvents job={job} />}
            <Details job={job} ask={setQuestion} done={reload} />
            {question && <Dialog question={question} close={() => setQuestion(null)} />}
        </article>
    );
}

/** Which approval the job waits for. */
const approvalKey = (job: JobState) => (allows(job, "APPROVE_START") ? "start" : awaitingApproval(job));

interface Ask {
    job: JobState;
    ask: (question: Question) => void;
    done: () => Promise<void>;
}

/** How many devices have joined a job that is or was continuous. */
function joined({ continuous, joins }: JobState): string {
    if (!joins) return "";
    const before = continuous ? ", continuous" : "";
    return `${before}, ${count(joins.joined_count)} joined${joins.behind ? ", some may not have joined yet" : ""}`;
}

function Heading({ job, ask, done }: Ask) {
    const s = status(job);
    const { route } = useLocation();
    return (
        <div class="heading">
            <div>
                <h1>{shown(job.job_id)}</h1>
                <p class="quiet">
                    <Badge word={s.word} tone={s.tone} /> · {shown(job.document_type)} · {target(job)}
                    {!job.target_device_id &&
                        !job.target_device_count &&
                        ` (${counted(job.total_executions, "device")}${joined(job)})`}{" "}
                    · created {job.created_by && `by ${shown(job.created_by)} `}
                    <Time at={job.created_at} />
                    <OtherJob words="replaces" jobId={job.replaces_job_id} />
                    <OtherJob words="replaced by" jobId={job.replaced_by_job_id} />
                    {(job.start_windows ?? []).length > 0 &&
                        ` · starts ${windows(job.start_windows, job.window_time_zone)}`}
                    {job.expires_at && isActive(job) && (
                        <>
                            {" "}
                            · expires <Time at={job.expires_at} />
                        </>
                    )}
                </p>
                {job.description && <p class="description">{shown(job.description)}</p>}
                <Labels labels={job.labels} href={(label) => `/console/jobs${search({ labels: label })}`} />
            </div>
            <div class="buttons">
                {may("CreateJob") && (
                    <a class="button" href={`/console/new?copy=${encodeURIComponent(job.job_id)}`}>
                        Copy job
                    </a>
                )}
                {actions.canPause(job) && (
                    <button onClick={() => ask(actions.pause(job, done))}>Pause…</button>
                )}
                {actions.canCancel(job) && (
                    <button class="danger" onClick={() => ask(actions.cancel(job, done))}>
                        Cancel…
                    </button>
                )}
                {actions.canDelete(job) && (
                    <button
                        class="danger"
                        onClick={() => ask(actions.remove(job, () => route("/console/jobs")))}
                    >
                        Delete…
                    </button>
                )}
            </div>
        </div>
    );
}

function OtherJob({ words, jobId }: { words: string; jobId: string }) {
    if (!jobId) return null;
    return (
        <>
            {" "}
            · {words} <a href={jobPath(jobId)}>{shown(jobId)}</a>
        </>
    );
}

function Notice({ job, ask, done }: Ask) {
    const openings = useOpenings(job);
    const n = notice(job, ago, openings && !openings.isOpen ? openings.next : null);
    const approval = useApproval(job, awaitingApproval(job), ask, done);
    if (!n) return null;
    const mayRetry = (job.status === "PAUSED" || job.status === "COMPLETED") && actions.canRetry(job);
    const mayOpen = job.pause?.cause === "GATE_NOT_MET" && actions.canAdvance(job);
    // The action that lets the job continue stands last.
    const isStopped = job.status === "PAUSED" && !allows(job, "RESUME");
    const open = mayOpen && (
        <button
            class={isStopped && !mayRetry ? "primary" : ""}
            onClick={() => ask(actions.advance(job, done))}
        >
            Open next stage…
        </button>
    );
    return (
        <section class={`notice ${n.tone}`} aria-label="What to do next">
            <div>
                <h2>{n.title}</h2>
                <p>
                    {n.text} {approval.problem} {mayOpen && <GateAdvice job={job} />}
                </p>
                {approval.comment}
            </div>
            <div class="buttons">
                {isStopped && open}
                {mayRetry && (
                    <button
                        class={isStopped ? "primary" : ""}
                        onClick={() => ask(actions.retry(job, null, done))}
                    >
                        Retry {counted(failures(job.execution_counts), "failure")}…
                    </button>
                )}
                {!isStopped && open}
                {actions.canResume(job) && (
                    <button class="primary" onClick={() => ask(actions.resume(job, done))}>
                        Resume…
                    </button>
                )}
                {approval.buttons}
            </div>
        </section>
    );
}

/** What to do about a gate that is not met. */
function GateAdvice({ job }: { job: JobState }) {
    const settings = jobPath(job.job_id) + search({ tab: "settings" });
    return (
        <>
            Retry the failures,{" "}
            {actions.canChange() ? (
                <a href={settings} onClick={showDetails}>
                    change the gate
                </a>
            ) : (
                "change the gate"
            )}
            , or open the next stage anyway.
        </>
    );
}

function Numbers({ job }: { job: JobState }) {
    const c = job.execution_counts;
    // The colors are those of the bar.
    const numbers: [string, number, string][] = [
        ["Succeeded", c.succeeded, "succeeded"],
        ["In progress", c.in_progress, "busy"],
        ["Queued", c.queued, "queued"],
        ["Held", c.held, "held"],
        ...(job.status === "CANCELED"
            ? ([
                  ["Failed", c.failed + c.timed_out, "failed"],
                  ["Canceled or rejected", c.rejected, "canceled"],
              ] as [string, number, string][])
            : ([["Failed", failures(c), "failed"]] as [string, number, string][])),
    ];
    return (
        <section aria-label="Devices by status">
            <dl class="numbers">
                {numbers.map(([word, n, color]) => (
                    <div key={word} title={executionWords[word.toUpperCase()]?.hint}>
                        <dt>
                            <span class={`dot swatch ${color}`} aria-hidden="true" />
                            {word}
                        </dt>
                        <dd>{count(n)}</dd>
                    </div>
                ))}
                {job.retrying_count > 0 && (
                    <div>
                        <dt>Retrying (queued or in progress)</dt>
                        <dd>{count(job.retrying_count)}</dd>
                    </div>
                )}
            </dl>
            {c.held > 0 && <p class="quiet">Held: {executionWords.HELD?.hint}.</p>}
            <Bar
                counts={c}
                total={job.total_executions}
                canceled={job.status === "CANCELED"}
                label="Devices"
            />
        </section>
    );
}

const allTabs = {
    executions: "Devices",
    history: "History",
    document: "Document",
    settings: "Settings",
} as const;
type Tab = keyof typeof allTabs;

function Details({ job, ask, done }: Ask) {
    const [query, setQuery] = useQuery();
    // After a change, the form of the settings starts from the changed job.
    const [saves, setSaves] = useState(0);
    const saved = async () => {
        await done();
        setSaves((n) => n + 1);
    };
    const { settings, ...reading } = allTabs;
    const tabs: Partial<Record<Tab, string>> = actions.canChange() ? allTabs : reading;
    const tab = query.tab && query.tab in tabs ? (query.tab as Tab) : "executions";
    return (
        <Tabs label="Details" tabs={tabs} tab={tab} choose={(name) => setQuery({ tab: name, page: "" })}>
            {tab === "executions" && <Executions job={job} />}
            {tab === "history" && <History job={job} />}
            {tab === "document" && <Document job={job} />}
            {tab === "settings" && <Settings key={saves} job={job} ask={ask} done={saved} />}
        </Tabs>
    );
}

function Document({ job }: { job: JobState }) {
    return (
        <div class="pad">
            <pre tabIndex={0}>{json(job.document_params)}</pre>
            <dl class="facts">
                <dt>Priority</dt>
                <dd>{job.priority?.toLowerCase()}</dd>
                <dt>Devices can start</dt>
                <dd>
                    {windows(job.start_windows ?? [], job.window_time_zone)} <Openings job={job} />
                </dd>
                <dt>Timeout of an execution</dt>
                <dd>
                    {job.in_progress_timeout_minutes
                        ? `${count(job.in_progress_timeout_minutes)} min`
                        : "none"}
                </dd>
                {job.retry_policy && (
                    <>
                        <dt>Retries</dt>
                        <dd>
                            {(job.retry_policy.rules ?? [])
                                .map(
                                    (r) =>
                                        `${r.statuses.join(", ").toLowerCase() || "any failure"} ${r.failure_codes.map(shown).join(", ")}: ${counted(r.max_attempts, "attempt")}`,
                                )
                                .join("; ")}
                        </dd>
                    </>
                )}
            </dl>
            <Terminal
                command={command(["get", job.job_id], [], {
                    method: "GET",
                    path: restPath("jobs", job.job_id),
                })}
            />
        </div>
    );
}

/** When the windows open next. */
function Openings({ job }: { job: JobState }) {
    const openings = useOpenings(job);
    if (!openings) return null;
    if (openings.isOpen) return <span>(open now)</span>;
    return openings.next ? (
        <span>
            (opens <Time at={openings.next} />)
        </span>
    ) : null;
}
