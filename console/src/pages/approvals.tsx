/** The starts and stages that wait for an approval: the numbers so far, what happened, and the approval. */

import { useState } from "preact/hooks";
import { type Job } from "../api/client";
import { readJob, readNewestEvents } from "../api/reads";
import { count, counted, percent, shown } from "../format";
import { useLoaded } from "../load";
import { useApproval } from "../parts/approval";
import { Badge } from "../parts/badge";
import { Bar } from "../parts/bar";
import { Dialog, type Question } from "../parts/dialog";
import { EventList } from "../parts/history";
import { JobLink } from "../parts/links";
import { useTitle } from "../title";
import { waiting } from "../waiting";
import { allows, waitText } from "../waits";
import { awaitingApproval, failures, stageName, target } from "../words";

const POLL_MS = 5000;

export function Approvals() {
    useTitle("Approvals");
    const [question, setQuestion] = useState<Question | null>(null);
    const jobs = waiting.value?.items ?? [];
    return (
        <>
            <div class="heading">
                <h1>Approvals</h1>
            </div>
            {waiting.value && !jobs.length && (
                <div class="card empty">
                    <p>No job waits for an approval.</p>
                    <p class="quiet">
                        A job is listed here when its start needs an approval, or when everything but an
                        approval is done for its next stage to open.
                    </p>
                </div>
            )}
            {jobs.map((job) => (
                <Waiting key={job.job_id} jobId={job.job_id} ask={setQuestion} />
            ))}
            {question && <Dialog question={question} close={() => setQuestion(null)} />}
        </>
    );
}

/** ListJobs leaves out the stages, so each job is read. */
function Waiting({ jobId, ask }: { jobId: string; ask: (q: Question) => void }) {
    const { data: job, reload } = useLoaded(jobId, (signal) => readJob(jobId, signal), POLL_MS);
    if (!job) return null;
    if (allows(job, "APPROVE_START")) return <Start job={job} ask={ask} done={reload} />;
    const stage = awaitingApproval(job);
    if (stage < 0) return null;
    return <Stage key={stage} job={job} stage={stage} ask={ask} done={reload} />;
}

function Start({ job, ask, done }: { job: Job; ask: (q: Question) => void; done: () => void }) {
    const approval = useApproval(job, -1, ask, done);
    return (
        <section class="card" aria-label={`${job.job_id}, start`}>
            <h2>
                <span>
                    <JobLink id={job.job_id} /> · the start needs an approval
                </span>
                <span class="quiet">{target(job)}</span>
            </h2>
            <p class="pad">
                {job.created_by && `${shown(job.created_by)} created it for `}
                {counted(job.total_executions, "device")}
                {job.rollout && ` in ${counted(job.rollout.stages.length, "stage")}`}.{" "}
                {(job.waits_for ?? []).slice(1).map(waitText).join(" ")}
            </p>
            <Decision {...approval} />
        </section>
    );
}

function Decision({ problem, comment, buttons }: ReturnType<typeof useApproval>) {
    return (
        <>
            {problem && <p class="pad quiet">{problem}</p>}
            {comment && (
                <div class="approve pad">
                    {comment}
                    {buttons}
                </div>
            )}
        </>
    );
}

function Stage(props: { job: Job; stage: number; ask: (q: Question) => void; done: () => void }) {
    const { job, stage, ask, done } = props;
    const approval = useApproval(job, stage, ask, done);
    const state = job.stages?.[stage];
    const events = useLoaded(`${job.job_id} ${job.etag} ${stage}`, (signal) =>
        readNewestEvents(job.job_id, 20, signal),
    );
    if (!state) return null;
    const failed = failures(state.execution_counts);
    const next = stageName(job, stage + 1);
    const isPaused = job.status === "PAUSED";
    // What happened since the last approval, or since the job was created.
    const all = events.data?.items ?? [];
    const last = all.findIndex((e) => e.type === "job.stage_approved");
    const since = last < 0 ? all : all.slice(0, last);
    return (
        <section class="card" aria-label={`${job.job_id}, ${next}`}>
            <h2>
                <span>
                    <JobLink id={job.job_id} /> · {next} needs an approval
                </span>
                <span class="quiet">{target(job)}</span>
            </h2>
            <div class="pad">
                {isPaused && (
                    <p>
                        <Badge word="Paused" tone="warn" />{" "}
                        {shown(job.waits_for?.[0]?.message ?? job.pause?.reason ?? "")}
                    </p>
                )}
                <p>
                    In {stageName(job, stage)}, {counted(state.execution_counts.succeeded, "device")}{" "}
                    succeeded ({percent(state.execution_counts.succeeded, state.total_executions)}
                    ), {failed ? `${count(failed)} failed` : "none failed"}. After an approval, {next} opens
                    with {counted(job.stages?.[stage + 1]?.total_executions ?? 0, "device")}
                    {isPaused && " when the job is resumed"}.
                </p>
                <Bar
                    counts={state.execution_counts}
                    total={state.total_executions}
                    label={stageName(job, stage)}
                />
            </div>
            {since.length > 0 && <EventList events={since} job={job} />}
            <Decision {...approval} />
        </section>
    );
}
