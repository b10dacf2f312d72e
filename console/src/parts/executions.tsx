/** The executions of a job, page by page: a job of a million devices is never read at once. */

import { isFailure } from "../actions";
import { api, page, type Counts, type Execution, type Job, type Page } from "../api/client";
import type { paths } from "../api/schema";
import { counted } from "../format";
import { useLoaded } from "../load";
import { executionPath, search, useQuery, type Query } from "../query";
import { executionWords, stageLabel } from "../words";
import { ExecutionTable } from "./execution-table";
import { FilterField, Filters, Select } from "./fields";
import { ErrorNotice } from "./notices";
import { Pager } from "./pager";

const PAGE_SIZE = 100;
const POLL_MS = 10_000;
// Of each status.
const MAX_FAILURES = 20;

type ExecutionsQuery = NonNullable<paths["/customer/jobs/{job_id}/executions"]["get"]["parameters"]["query"]>;

function read(job: Job, query: ExecutionsQuery, signal: AbortSignal) {
    const params = { path: { job_id: job.job_id }, query };
    return page(api.GET("/customer/jobs/{job_id}/executions", { params, signal }));
}

export function Executions({ job }: { job: Job }) {
    const [query, setQuery] = useQuery();
    const filters = {
        status: (query.status || undefined) as "FAILED" | undefined,
        failure_code: query.code || undefined,
        stage: query.stage ? Number(query.stage) : undefined,
        device_id_prefix: query.device || undefined,
    };
    const { data, error } = useLoaded(
        JSON.stringify([job.job_id, filters, query.page]),
        (signal) => read(job, { ...filters, limit: PAGE_SIZE, page_token: query.page || undefined }, signal),
        // A report of progress changes no job.
        job.execution_counts.in_progress ? POLL_MS : 0,
        job,
    );
    const isFiltered = query.status || query.code || query.stage || query.device;
    const failures = useFailures(job, !isFiltered && job.status === "PAUSED");
    const filter = (changes: Query) => setQuery({ tab: "executions", ...changes, page: "" });
    const first = new Set(failures.map((e) => e.device_id));
    const others = data?.items.filter((e) => !first.has(e.device_id)) ?? [];
    const rows = query.page ? others : [...failures, ...others];
    const size = matching(job, query, data);
    return (
        <>
            <ExecutionFilters job={job} query={query} filter={filter} />
            {size ? <p class="pad quiet">{counted(size, "device")}</p> : null}
            {failures.length > 0 && (
                <p class="pad quiet">
                    The first page lists failures first, up to {MAX_FAILURES} of each status.
                </p>
            )}
            {error && <ErrorNotice error={error} />}
            {data && !data.items.length && <p class="pad quiet">No device matches.</p>}
            {rows.length > 0 && (
                <div class="scroll" tabIndex={0} role="region" aria-label="Devices of the job">
                    <ExecutionTable
                        by="Device"
                        executions={rows}
                        href={(e) => executionPath(job.job_id, e.device_id) + search(query)}
                        stage={job.stages?.length ? (index) => stageLabel(job, index) : undefined}
                    />
                </div>
            )}
            <Pager next={data?.next} label="Pages of devices" />
        </>
    );
}

/**
 * The first failures of a job. They are read again when its counts change: the failures of a job that is paused do
 * not change otherwise.
 */
function useFailures(job: Job, isShown: boolean): Execution[] {
    const counts = job.execution_counts;
    const { data } = useLoaded(
        isShown ? `failures of ${job.job_id}` : null,
        (signal) =>
            Promise.all(
                (Object.keys(executionWords) as NonNullable<ExecutionsQuery["status"]>[])
                    .filter((name) => isFailure(name) && counts[name.toLowerCase() as keyof Counts])
                    .map((status) => {
                        // Not those that were canceled, or expired before they started.
                        const end_causes = ["DEVICE" as const, "TIMEOUT" as const];
                        return read(job, { status, end_causes, limit: MAX_FAILURES }, signal);
                    }),
            ),
        0,
        JSON.stringify([job.etag, counts]),
    );
    return (data ?? []).flatMap((list) => list.items);
}

/** How many executions match the filter; undefined: there is no filter, or the number is not known. */
function matching(job: Job, query: Query, first: Page<unknown[]> | undefined): number | undefined {
    const { status, stage, device, code, page } = query;
    if (!first || page || !(status || stage || device || code)) return undefined;
    // The counts of the job are newer than the rows.
    if (!first.next) return first.items.length;
    if (device || code) return undefined;
    const part = stage ? job.stages?.[Number(stage)] : job;
    return status ? part?.execution_counts[status.toLowerCase() as keyof Counts] : part?.total_executions;
}

function ExecutionFilters(props: { job: Job; query: Query; filter: (changes: Query) => void }) {
    const { job, query, filter } = props;
    const stages = Object.fromEntries((job.stages ?? []).map((_, index) => [index, stageLabel(job, index)]));
    return (
        <Filters class="pad" submit={filter}>
            <Select
                label="Status"
                value={query.status ?? ""}
                set={(status) => filter({ status })}
                options={statuses}
            />
            {job.stages?.length ? (
                <Select
                    label="Stage"
                    value={query.stage ?? ""}
                    set={(stage) => filter({ stage })}
                    options={{ "": "all", ...stages }}
                />
            ) : null}
            <FilterField name="device" label="Device starts with" value={query.device} />
            <FilterField name="code" label="Code" value={query.code} />
        </Filters>
    );
}

const statuses: Record<string, string> = {
    "": "all",
    ...Object.fromEntries(Object.entries(executionWords).map(([name, { word }]) => [name, word])),
};
