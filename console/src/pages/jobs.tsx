/** The list of jobs: filters in the URL, live bars, actions on several. */

import { useState } from "preact/hooks";
import * as actions from "../actions";
import { ApiError, api, page, sameCaller, type Job } from "../api/client";
import { serverNow } from "../clock";
import { count, counted, HOUR_MS, shown } from "../format";
import { reloadAll, useLoaded } from "../load";
import { Badge } from "../parts/badge";
import { Bar } from "../parts/bar";
import { commandOf, Dialog, type Question } from "../parts/dialog";
import { FilterField, Filters, Select } from "../parts/fields";
import { JobLink } from "../parts/links";
import { ErrorNotice } from "../parts/notices";
import { Pager } from "../parts/pager";
import { SavedFilters } from "../parts/saved-filters";
import { Selection } from "../parts/selection";
import { Time } from "../parts/time";
import { useQuery, type Query } from "../query";
import { may } from "../session";
import { groupSuggestions, useLabels } from "../suggestions";
import { useTitle } from "../title";
import { waiting } from "../waiting";
import { isActive, status, target, unfinished, unstarted } from "../words";

const PAGE_SIZE = 50;
const POLL_MS = 3000;

const statuses: Record<string, string> = {
    "": "all",
    IN_PROGRESS: "In progress",
    PAUSED: "Paused",
    SCHEDULED: "Scheduled",
    COMPLETED: "Completed",
    CANCELED: "Canceled",
};
const ages: Record<string, string> = {
    "": "at any time",
    "1": "in the last 24 hours",
    "7": "in the last 7 days",
    "30": "in the last 30 days",
};

function listQuery(query: Query) {
    const days = Number(query.days);
    const from = days ? new Date(serverNow() - days * 24 * HOUR_MS) : null;
    return {
        limit: PAGE_SIZE,
        status: query.status && query.status in statuses ? (query.status as Job["status"]) : undefined,
        job_id_prefix: query.id || undefined,
        selector: query.labels || undefined,
        created_by: query.by || undefined,
        target_group_id: query.group || undefined,
        created_from: query.page ? undefined : from?.toISOString(),
        page_token: query.page || undefined,
    };
}

export function Jobs() {
    useTitle("Jobs");
    const [query, setQuery] = useQuery();
    const [selected, setSelected] = useState<Record<string, true>>({});
    const [question, setQuestion] = useState<Question | null>(null);
    const { data, error, reload } = useLoaded(
        JSON.stringify(query),
        (signal) => page(api.GET("/customer/jobs", { params: { query: listQuery(query) }, signal })),
        POLL_MS,
    );
    const filter = (changes: Query) => {
        setSelected({});
        setQuery({ ...changes, page: "" });
    };
    const jobs = data?.items ?? [];
    const chosen = jobs.filter((job) => selected[job.job_id]);
    const toggle = (id: string) => {
        const { [id]: was, ...rest } = selected;
        setSelected(was ? rest : { ...rest, [id]: true });
    };
    const select = (some: Job[]) =>
        setSelected(Object.fromEntries(some.map((job) => [job.job_id, true as const])));
    const done = () => {
        setSelected({});
        reload();
    };
    const isFiltered = Object.values(query).some(Boolean);
    return (
        <>
            <div class="heading">
                <h1>Jobs</h1>
                {may("CreateJob") && (
                    <a class="button primary" href="/console/new">
                        New job
                    </a>
                )}
            </div>
            <JobFilters query={query} filter={filter} />
            <SavedFilters />
            {error && <ErrorNotice error={error} />}
            {data && jobs.length === 0 && <Empty isFiltered={isFiltered} />}
            {jobs.length > 0 && mayActOnJobs() && (
                <Selection
                    noun="job"
                    chosen={chosen}
                    isAll={chosen.length === jobs.length}
                    selectAll={(on) => select(on ? jobs : [])}
                    actions={bulkActions.map((action) => ({
                        ...action,
                        act: (some: Job[]) => setQuestion(bulkQuestion(action, some, done)),
                    }))}
                />
            )}
            {jobs.length > 0 && (
                <table class="card jobs" aria-label="Jobs">
                    <thead>
                        <tr class="row">
                            <td />
                            <th>Job</th>
                            <th>Status</th>
                            <th>Progress</th>
                            <th class="number">Devices ended</th>
                            <th>Created by</th>
                            <th>Created</th>
                        </tr>
                    </thead>
                    <tbody>
                        {jobs.map((job) => (
                            <Row
                                key={job.job_id}
                                job={job}
                                selected={!!selected[job.job_id]}
                                toggle={toggle}
                            />
                        ))}
                    </tbody>
                </table>
            )}
            <Pager next={data?.next} label="Pages of the list" />
            {question && <Dialog question={question} close={() => setQuestion(null)} />}
        </>
    );
}

const mayActOnJobs = () => may("PauseJob") || may("CancelJob") || may("DeleteJob");

function Row({ job, selected, toggle }: { job: Job; selected: boolean; toggle: (id: string) => void }) {
    const awaits = waiting.value?.items.some((w) => w.job_id === job.job_id) ?? false;
    const s = status(job, awaits);
    const about = [shown(job.document_type), target(job), shown(job.description ?? "")]
        .filter(Boolean)
        .join(" · ");
    const finished = job.total_executions - unfinished(job.execution_counts);
    return (
        <tr class="row">
            <td>
                {mayActOnJobs() && (
                    <input
                        type="checkbox"
                        checked={selected}
                        onChange={() => toggle(job.job_id)}
                        aria-label={`Select ${shown(job.job_id)}`}
                    />
                )}
            </td>
            <td class="what">
                <JobLink id={job.job_id} />
                <p class="quiet" title={about}>
                    {about}
                </p>
            </td>
            <td class="state">
                <Badge word={s.word} tone={s.tone} /> <span class="quiet">{s.detail}</span>
            </td>
            <td class="progress">
                <Bar
                    counts={job.execution_counts}
                    total={job.total_executions}
                    canceled={job.status === "CANCELED"}
                    label={shown(job.job_id)}
                />
            </td>
            <td class="number">
                {count(finished)} of {count(job.total_executions)}
            </td>
            <td class="quiet by">{shown(job.created_by ?? "")}</td>
            <td class="quiet age">
                <Time at={job.created_at} />
            </td>
        </tr>
    );
}

function Empty({ isFiltered }: { isFiltered: boolean }) {
    return (
        <div class="card empty">
            {isFiltered ? (
                <>
                    <p>No job matches these filters.</p>
                    <a class="button" href="/console/jobs">
                        Show all jobs
                    </a>
                </>
            ) : (
                <>
                    <p>This tenant has no jobs yet.</p>
                    {may("CreateJob") && (
                        <a class="button primary" href="/console/new">
                            Create the first job
                        </a>
                    )}
                </>
            )}
        </div>
    );
}

function JobFilters({ query, filter }: { query: Query; filter: (changes: Query) => void }) {
    return (
        <Filters submit={filter}>
            <Select
                label="Status"
                value={query.status ?? ""}
                set={(status) => filter({ status })}
                options={statuses}
            />
            <FilterField name="id" label="Job starts with" value={query.id} />
            <FilterField name="labels" label="Labels" value={query.labels} placeholder="release=2.1" />
            <FilterField name="by" label="Created by" value={query.by} />
            <FilterField
                name="group"
                label="Group"
                value={query.group}
                suggestions={groupSuggestions(useLabels())}
            />
            <Select
                label="Created"
                value={query.days ?? ""}
                set={(days) => filter({ days })}
                options={ages}
            />
        </Filters>
    );
}

const sum = (jobs: Job[], devices: (job: Job) => number) => jobs.reduce((n, job) => n + devices(job), 0);

const countsOf = (jobs: Job[]) => ({
    queued: sum(jobs, (job) => job.execution_counts.queued),
    held: sum(jobs, (job) => job.execution_counts.held),
    in_progress: sum(jobs, (job) => job.execution_counts.in_progress),
});

// ListJobs does not return the possible actions.
const bulkActions = [
    {
        verb: "Pause",
        of: actions.pause,
        can: (job: Job) => may("PauseJob") && isActive(job) && job.status !== "PAUSED",
        devices: (job: Job) => unstarted(job.execution_counts),
        effect: (jobs: Job[]) => actions.pauseEffect(countsOf(jobs), "they are resumed"),
        destructive: false,
    },
    {
        verb: "Cancel",
        of: actions.cancel,
        can: (job: Job) => may("CancelJob") && isActive(job),
        devices: (job: Job) => unfinished(job.execution_counts),
        effect: (jobs: Job[]) => actions.cancelEffect(countsOf(jobs)),
        destructive: true,
    },
    {
        verb: "Delete",
        of: actions.remove,
        can: (job: Job) => may("DeleteJob") && !isActive(job) && job.execution_counts.in_progress === 0,
        devices: (job: Job) => job.total_executions,
        effect: (jobs: Job[]) =>
            actions.removeEffect(
                sum(jobs, (job) => job.total_executions),
                "jobs",
            ),
        destructive: true,
    },
];

/** One question for several jobs; it does to each what the question about this job would do. */
function bulkQuestion(action: (typeof bulkActions)[number], jobs: Job[], done: () => void): Question {
    const { verb, effect, destructive } = action;
    let left = jobs.map((job) => ({ job, question: action.of(job, () => {}) }));
    const questions = left.map(({ question }) => question);
    const all = (reason: string | undefined, kind: "cli" | "curl") =>
        questions.map((question) => commandOf(question, reason)?.[kind]).join(" && ");
    return {
        title: `${verb} ${counted(jobs.length, "job")}?`,
        children: effect(jobs),
        destructive,
        devices: sum(jobs, action.devices),
        typed: verb.toLowerCase(),
        action: `${verb} ${counted(jobs.length, "job")}`,
        reasonVisibility: questions[0]?.reasonVisibility,
        command: (reason) => ({ cli: all(reason, "cli"), curl: all(reason, "curl") }),
        run: async (reason) => {
            const failed: { job: Job; question: Question; error: ApiError }[] = [];
            const check = sameCaller();
            for (const one of left) {
                check();
                try {
                    await one.question.run(reason);
                } catch (error) {
                    if (!(error instanceof ApiError)) throw error;
                    failed.push({ ...one, error });
                }
            }
            // Another attempt is about those that are left.
            left = failed;
            const [first] = failed;
            if (!first) return done();
            reloadAll();
            const problems = failed.map(({ job, error }) => `${job.job_id}: ${error.message}`);
            throw new ApiError(
                `${jobs.length - failed.length} of ${counted(jobs.length, "job")} done. ${problems.join(". ")}`,
                "",
                first.error.status,
                first.error.requestId,
            );
        },
    };
}
