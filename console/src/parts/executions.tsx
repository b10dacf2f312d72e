/** The executions of a job, page by page: a job of a million devices is never read at once. */

import { api, page, type Counts, type Job, type Page } from "../api/client";
import { counted, shown } from "../format";
import { useLoaded } from "../load";
import { executionPath, search, useQuery, type Query } from "../query";
import { executionState, executionWords, isActive, stageLabel } from "../words";
import { Badge } from "./badge";
import { FilterField, submitted } from "./fields";
import { ErrorNotice } from "./notices";
import { Pager } from "./pager";
import { Time } from "./time";

const PAGE_SIZE = 100;
const POLL_MS = 5000;

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
        (signal) =>
            page(
                api.GET("/customer/jobs/{job_id}/executions", {
                    params: {
                        path: { job_id: job.job_id },
                        query: {
                            ...filters,
                            limit: PAGE_SIZE,
                            page_token: query.page || undefined,
                        },
                    },
                    signal,
                }),
            ),
        isActive(job) ? POLL_MS : 0,
        JSON.stringify(job.execution_counts),
    );
    const filter = (changes: Query) => setQuery({ tab: "executions", ...changes, page: "" });
    const rows = data?.items ?? [];
    const hasStages = (job.stages ?? []).length > 0;
    const size = matching(job, query, data);
    return (
        <>
            <Filters job={job} query={query} filter={filter} />
            {size ? <p class="pad quiet">{counted(size, "device")}</p> : null}
            {error && <ErrorNotice error={error} />}
            {data && !rows.length && <p class="pad quiet">No device matches.</p>}
            {rows.length > 0 && (
                <div class="scroll" tabIndex={0} role="region" aria-label="Devices of the job">
                    <table class="stack">
                        <thead>
                            <tr>
                                <th>Device</th>
                                <th>Status</th>
                                <th>Code</th>
                                <th class="number">Attempt</th>
                                {hasStages && <th>Stage</th>}
                                <th>Changed</th>
                            </tr>
                        </thead>
                        <tbody>
                            {rows.map((e) => {
                                return (
                                    <tr key={e.device_id}>
                                        <td>
                                            <a href={executionPath(job.job_id, e.device_id) + search(query)}>
                                                {shown(e.device_id)}
                                            </a>
                                        </td>
                                        <td>
                                            <Badge {...executionState(e)} />
                                        </td>
                                        <td>{e.failure_code && <code>{shown(e.failure_code)}</code>}</td>
                                        <td class="number extra">{e.execution_number}</td>
                                        {hasStages && (
                                            <td class="extra">
                                                {e.stage !== null && stageLabel(job, e.stage)}
                                            </td>
                                        )}
                                        <td class="quiet">
                                            <Time at={e.last_updated_at} />
                                        </td>
                                    </tr>
                                );
                            })}
                        </tbody>
                    </table>
                </div>
            )}
            <Pager next={data?.next} label="Pages of devices" />
        </>
    );
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

function Filters({ job, query, filter }: { job: Job; query: Query; filter: (changes: Query) => void }) {
    const submit = (event: SubmitEvent) => {
        const { device = "", code = "" } = submitted(event);
        filter({ device, code });
    };
    return (
        <form class="filters pad" onSubmit={submit}>
            <label>
                Status
                <select
                    value={query.status ?? ""}
                    onChange={(e) => filter({ status: e.currentTarget.value })}
                >
                    <option value="">all</option>
                    {Object.entries(executionWords).map(([name, { word, hint }]) => (
                        <option key={name} value={name} title={hint}>
                            {word}
                        </option>
                    ))}
                </select>
            </label>
            {job.stages?.length ? (
                <label>
                    Stage
                    <select
                        value={query.stage ?? ""}
                        onChange={(e) => filter({ stage: e.currentTarget.value })}
                    >
                        <option value="">all</option>
                        {job.stages.map((_, index) => (
                            <option key={index} value={String(index)}>
                                {stageLabel(job, index)}
                            </option>
                        ))}
                    </select>
                </label>
            ) : null}
            <FilterField name="device" label="Device starts with" value={query.device} />
            <FilterField name="code" label="Code" value={query.code} />
            <button>Filter</button>
        </form>
    );
}
