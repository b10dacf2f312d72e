/** Creates a job: which devices, what, in which stages, when. The service checks it before the button is enabled. */

import { useLocation } from "preact-iso";
import { useEffect, useRef, useState } from "preact/hooks";
import {
    ApiError,
    api,
    body,
    page,
    sameCaller,
    type CreateJobRequest,
    type Job,
    type FleetLabels,
    type TargetPreview,
} from "../api/client";
import { readJob } from "../api/reads";
import { serverNow } from "../clock";
import { command, labelOptions, option, post, rolloutOptions, withInput } from "../commands";
import {
    canBeContinuous,
    copyOf,
    documentProblem,
    DraftError,
    draftRequest,
    draftRollout,
    draftTarget,
    emptyDraft,
    hasListedDevices,
    lateCriteria,
    replacement,
    summary,
    type Draft,
    type TargetKind,
} from "../draft";
import { keepDraft, keptDraft, randomId } from "../drafts";
import { counted, shown } from "../format";
import { useLoaded } from "../load";
import { CriterionFields } from "../parts/criterion-fields";
import { bind, Check, Lines, Select, Text } from "../parts/fields";
import { ErrorNotice } from "../parts/notices";
import { Links } from "../parts/links";
import { SelectorField } from "../parts/selector-field";
import { StageFields } from "../parts/stage-fields";
import { Terminal } from "../parts/terminal";
import { Time, ago } from "../parts/time";
import { TimingFields } from "../parts/timing-fields";
import { problemsOf, type Problems } from "../problems";
import { jobPath, search, useQuery } from "../query";
import { may } from "../session";
import { groupSuggestions, useLabels } from "../suggestions";
import { useTitle } from "../title";

// How long a field must rest before the service is asked.
const REST_MS = 400;
// A last start that is not later needs no forecast: all devices can start at once.
const AT_ONCE_MS = 5000;

/** The value, after it has not changed for a while. */
function useRested<T>(value: T): T {
    const [rested, setRested] = useState(value);
    const key = JSON.stringify(value);
    useEffect(() => {
        const timer = setTimeout(() => setRested(value), REST_MS);
        return () => clearTimeout(timer);
    }, [key]);
    return rested;
}

export function NewJob() {
    useTitle("New job");
    const [query] = useQuery();
    const copied = useLoaded(query.copy ?? null, (signal) => readCopy(query.copy ?? "", signal));
    if (!may("CreateJob"))
        return (
            <div class="notice warn" role="alert">
                <p>Your roles do not allow you to create jobs.</p>
            </div>
        );
    if (query.copy && copied.error) return <ErrorNotice error={copied.error} />;
    if (query.copy && !copied.data) return <p class="quiet loading">Loading {shown(query.copy)} …</p>;
    const start = copied.data ?? { ...emptyDraft, ...fromQuery(query) };
    return <Form key={search(query)} start={start} copied={query.copy} />;
}

// More are not copied.
const MAX_LISTED = 5000;

/** The job, or null if it does not exist. */
async function readIfExists(jobId: string): Promise<Job | null> {
    try {
        return await readJob(jobId);
    } catch (error) {
        if (error instanceof ApiError && error.reason === "JOB_NOT_FOUND") return null;
        throw error;
    }
}

/** The form of another job like this one. */
async function readCopy(jobId: string, signal: AbortSignal): Promise<Draft> {
    const job = await readJob(jobId, signal);
    if (!hasListedDevices(job) || job.total_executions > MAX_LISTED) return copyOf(job);
    const params = { path: { job_id: jobId }, query: { limit: MAX_LISTED } };
    const { items } = await page(api.GET("/customer/jobs/{job_id}/executions", { params, signal }));
    return copyOf(
        job,
        items.map((e) => e.device_id),
    );
}

function fromQuery(query: Record<string, string>): Partial<Draft> {
    const kinds: TargetKind[] = ["group", "selector", "device"];
    const kind = kinds.find((k) => query[k]);
    return kind ? { targetKind: kind, target: query[kind] ?? "" } : {};
}

function Form({ start, copied }: { start: Draft; copied: string | undefined }) {
    const [query] = useQuery();
    const place = search(query);
    const [kept] = useState(() => keptDraft(place));
    const [draft, setDraft] = useState(kept?.draft ?? start);
    const attempt = useRef(kept?.attempt);
    const [nextId, setNextId] = useState(randomId);
    const [discarded, setDiscarded] = useState<Draft | null>(null);
    const [fits, setFits] = useState(true);
    const [error, setError] = useState<ApiError | null>(null);
    const [existing, setExisting] = useState<{ id: string; creation: string } | null>(null);
    const [busy, setBusy] = useState(false);
    const { route } = useLocation();
    const isChanged = JSON.stringify(draft) !== JSON.stringify(start);
    const replace = (next: Draft) => {
        setDraft(next);
        const isStart = JSON.stringify(next) === JSON.stringify(start);
        setFits(keepDraft(place, isStart ? null : next, attempt.current));
        setError(null);
        setExisting(null);
        setDiscarded(null);
    };
    const set = (changes: Partial<Draft>) => replace({ ...draft, ...changes });
    const discard = () => {
        replace(start);
        setDiscarded(draft);
    };

    let request: CreateJobRequest | null = null;
    let problem: DraftError | null = null;
    try {
        request = draftRequest(draft);
    } catch (e) {
        problem = e as DraftError;
    }
    const key = JSON.stringify(request);
    const rested = useRested(request);
    // The check and the creation send the same ID: it decides the random order of the devices.
    const withId = (r: CreateJobRequest): CreateJobRequest => ({
        ...r,
        job_id: r.job_id ?? (attempt.current?.key === JSON.stringify(r) ? attempt.current.id : nextId),
    });
    const check = useLoaded(rested ? JSON.stringify(rested) : null, (signal) =>
        body(api.POST("/customer/jobs", { body: { ...withId(rested!), validate_only: true }, signal })),
    );
    const isChecked = request !== null && check.data !== undefined && JSON.stringify(rested) === key;
    const problems = problemsOf(problem ?? error ?? check.error, draft);
    const texts = Object.values(problems);
    const field = bind(draft, set, problems);
    // It stays open when the problem is solved: the person may still type there.
    const hasTimingProblem = Object.keys(problems).some(isTiming);
    const [isTimingOpen, setTimingOpen] = useState(false);
    useEffect(() => {
        if (hasTimingProblem) setTimingOpen(true);
    }, [hasTimingProblem]);
    // The check also counts the devices, and the service evaluates one target of a tenant at a time.
    const preview = usePreview(draft, request === null || check.error !== undefined);
    const submit = async (event: SubmitEvent) => {
        event.preventDefault();
        if (!request || !isChecked) return;
        setBusy(true);
        setError(null);
        try {
            const digest = check.data?.preview?.target_digest;
            // Kept before the request is sent: after a lost response, a request with another ID would create
            // another job.
            if (attempt.current?.key !== key) {
                attempt.current = { key, id: nextId };
                setNextId(randomId());
            }
            keepDraft(place, draft, attempt.current);
            // A request that is repeated gets the same response as the first one.
            const assertSameCaller = sameCaller();
            const before = request.job_id ? await readIfExists(request.job_id) : null;
            assertSameCaller();
            const created = await body(
                api.POST("/customer/jobs", {
                    body: {
                        ...withId(request),
                        expected_target_digest: digest,
                    },
                }),
            );
            if (before) {
                const by = before.created_by ? `by ${before.created_by}, ` : "";
                setExisting({ id: before.job_id, creation: by + ago(before.created_at ?? "") });
                return setBusy(false);
            }
            keepDraft(place, null);
            route(jobPath(created.job_id));
        } catch (e) {
            setError(e instanceof ApiError ? e : new ApiError(String(e), "", 400));
            setBusy(false);
            check.reload();
        }
    };
    const found = check.data?.preview ?? preview.data;
    const devices = check.data?.execution_count ?? found?.device_count;
    const sizes = found?.stage_sizes ?? [];
    const forecast = check.data?.forecast;
    const known = useLabels();
    const hasTarget = draftTarget(draft) !== null;
    return (
        <form onSubmit={submit}>
            <div class="heading">
                <h1>{copied ? `New job like ${shown(copied)}` : "New job"}</h1>
                <div class="buttons">
                    {isChanged && (
                        <button type="button" onClick={discard}>
                            Discard draft
                        </button>
                    )}
                    {discarded && (
                        <button type="button" onClick={() => replace(discarded)}>
                            Restore draft
                        </button>
                    )}
                </div>
            </div>
            {kept && isChanged && <p class="quiet">Your draft was restored from this tab.</p>}
            {!fits && (
                <p class="caution">
                    This draft is lost when you leave the page: it is too large, or the browser does not store
                    it.
                </p>
            )}

            <fieldset class="card">
                <legend>What</legend>
                <div class="fields">
                    <Text {...field("jobId", "Job ID", "generated if empty")} />
                    <Text {...field("type", "Document type", "such as reboot")} required />
                    <Text {...field("description", "Description")} />
                    <Lines {...field("labels", "Labels of the job, one per line", "such as release=2.1")} />
                    <Text {...field("replaces", "Replaces job", "ID of a job that this one cancels")} />
                </div>
                <DocumentEditor
                    {...field("document", "Document parameters (JSON)")}
                    problem={documentProblem(draft.document) || (problems.document ?? "")}
                />
            </fieldset>

            <fieldset class="card">
                <legend>Which devices</legend>
                <TargetFields draft={draft} set={set} known={known} problems={problems} />
                {canBeContinuous(draft) && (
                    <div class="fields">
                        <Check
                            label="Continuous: devices that match later join the job"
                            checked={draft.continuous}
                            set={(continuous) => set({ continuous })}
                        />
                        {draft.continuous && (
                            <Text
                                {...field(
                                    "maxJoins",
                                    "Pause if more join in an hour",
                                    "100, or 5 % of the devices",
                                )}
                                numeric
                            />
                        )}
                    </div>
                )}
                {check.error && !found ? (
                    <p class="pad quiet">Fix the problems below to count the devices.</p>
                ) : (
                    <Preview
                        found={found}
                        error={check.error ? undefined : preview.error}
                        hasTarget={hasTarget}
                    />
                )}
            </fieldset>

            <fieldset class="card">
                <legend>In which stages</legend>
                <StageFields
                    stages={draft.stages}
                    sizes={sizes}
                    set={(stages) => set({ stages })}
                    known={known}
                    problems={problems}
                />
                <div class="fields">
                    <Text {...field("maxInProgress", "Maximum devices in progress", "no limit")} numeric />
                    <Check
                        label="Another user must approve before the first device starts"
                        checked={draft.startApproval}
                        set={(startApproval) => set({ startApproval })}
                    />
                </div>
            </fieldset>

            <fieldset class="card">
                <legend>Failure criteria: when to pause or cancel</legend>
                <CriterionFields
                    criteria={draft.criteria}
                    set={(criteria) => set({ criteria })}
                    problems={problems}
                />
            </fieldset>

            <details class="card" open={isTimingOpen} onToggle={(e) => setTimingOpen(e.currentTarget.open)}>
                <summary>When to start, retries, timeouts</summary>
                <TimingFields draft={draft} set={set} problems={problems}>
                    <Text
                        {...field(
                            "expiresHours",
                            "Expires after (hours)",
                            "24 h after the last device can start",
                        )}
                        numeric
                    />
                    <Select
                        {...field("priority", "Priority")}
                        options={{ LOW: "low", NORMAL: "normal", HIGH: "high" }}
                    />
                </TimingFields>
            </details>

            <section class="card create">
                {devices !== undefined && (
                    <div aria-live="polite">
                        <p class="summary">{summary(draft, devices, sizes)}</p>
                        {request?.replaces_job_id && isChecked && (
                            <p>{replacement(draft, check.data?.preview?.replaced_devices)}</p>
                        )}
                        {lateCriteria(draft, devices, sizes).map((text) => (
                            <p key={text} class="caution">
                                {text}
                            </p>
                        ))}
                    </div>
                )}
                {forecast?.last_start_at && Date.parse(forecast.last_start_at) > serverNow() + AT_ONCE_MS && (
                    <p class="quiet" title={shown(forecast.summary)}>
                        The last device can start <Time at={forecast.last_start_at} /> at the earliest.
                    </p>
                )}
                {problem && <p class="quiet">{problem.message}</p>}
                {!problem && !check.error && !isChecked && <p class="quiet">The service checks the job …</p>}
                {!problem && check.error && <ErrorNotice error={check.error} texts={texts} />}
                {error && <ErrorNotice error={error} texts={texts} />}
                {existing && (
                    <p class="notice warn" role="alert">
                        <span>
                            <a href={jobPath(existing.id)}>{shown(existing.id)}</a> already exists (created{" "}
                            {shown(existing.creation)}); nothing was created.
                        </span>
                    </p>
                )}
                <div class="buttons">
                    <button class="primary" disabled={!isChecked || busy}>
                        Create job{devices ? ` for ${counted(devices, "device")}` : ""}
                    </button>
                </div>
                {request && <Terminal command={terminalCommand(draft, request)} />}
            </section>
        </form>
    );
}

/** A field below "When to start". */
const isTiming = (key: string) => /^(start|window|retry|timeout|expires|priority)/.test(key);

/** The options of `jobs-grpc create`. It reads what no option can say from a file: here, from stdin. */
function terminalCommand(draft: Draft, request: CreateJobRequest) {
    const target = draft.target.trim();
    const targetOption = {
        all: ["--all"],
        group: option("--group", target),
        selector: option("--where", target),
        device: option("--device", target),
        list: option("--device", ...(request.target_device_ids?.device_ids ?? [])),
    }[draft.targetKind];
    const { rollout, failure_criteria, start_windows, window_time_zone, retry_policy } = request;
    const described = rolloutOptions(request);
    const options = [
        ...option("--type", request.document_type),
        ...targetOption,
        ...option("--params", JSON.stringify(request.document_params)),
        ...option("--job-id", request.job_id),
        ...option("--replaces", request.replaces_job_id),
        ...(request.continuous ? ["--continuous"] : []),
        ...option("--max-joins-per-hour", request.max_joins_per_hour),
        ...option("--description", request.description),
        ...labelOptions(request.labels),
        ...option("--start-at", request.start_at),
        ...option("--expires-in-hours", request.expires_in_hours),
        ...option("--in-progress-timeout", request.in_progress_timeout_minutes),
        ...option("--priority", request.priority?.toLowerCase()),
        ...(request.require_start_approval ? ["--require-start-approval"] : []),
        ...(request.execution_events ? ["--execution-events"] : []),
        ...(described ?? []),
    ];
    const file = described
        ? {}
        : { rollout, failure_criteria, start_windows, window_time_zone, retry_policy };
    const input = withInput(options, "--rollout", file);
    return command(["create"], input.options, post("/customer/jobs", request), input.text);
}

function usePreview(draft: Draft, needed: boolean) {
    const target = draftTarget(draft);
    let rollout: CreateJobRequest["rollout"];
    try {
        rollout = draftRollout(draft);
    } catch {
        rollout = undefined;
    }
    const rested = useRested(target && { ...target, rollout });
    return useLoaded(rested && needed ? JSON.stringify(rested) : null, (signal) =>
        body(api.POST("/customer/fleet:previewTarget", { body: rested!, signal })),
    );
}

function Preview(props: {
    found: TargetPreview | null | undefined;
    error: ApiError | undefined;
    hasTarget: boolean;
}) {
    const { found: data, error, hasTarget } = props;
    if (!hasTarget) return <p class="pad quiet">Choose the devices to see how many there are.</p>;
    if (error) return <ErrorNotice error={error} />;
    if (!data) return <p class="pad quiet">Counting the devices …</p>;
    const samples = data.device_ids;
    return (
        <div class="pad" aria-live="polite">
            <p>
                <strong>{counted(data.device_count, "device")}</strong>
                {samples.length > 0 && (
                    <span class="quiet">
                        {" "}
                        {samples.slice(0, 5).map(shown).join(", ")}
                        {data.device_count > 5 && " …"}
                    </span>
                )}
            </p>
            {data.overlapping_job_ids.length > 0 && (
                <p class="quiet">
                    Some are also in <Links ids={data.overlapping_job_ids} href={jobPath} />
                </p>
            )}
        </div>
    );
}

const targetKinds: Record<TargetKind, string> = {
    group: "A group",
    selector: "By labels",
    device: "One device",
    list: "A list",
    all: "All devices",
};

function TargetFields(props: {
    draft: Draft;
    set: (changes: Partial<Draft>) => void;
    known: FleetLabels | undefined;
    problems: Problems;
}) {
    const { draft, set, known, problems } = props;
    const field = bind(draft, set, problems);
    return (
        <>
            <div class="choices pad" role="radiogroup" aria-label="Kind of target">
                {Object.entries(targetKinds).map(([kind, label]) => (
                    <label key={kind}>
                        <input
                            type="radio"
                            name="target-kind"
                            checked={draft.targetKind === kind}
                            onChange={() => set({ targetKind: kind as TargetKind, target: "" })}
                        />
                        {label}
                    </label>
                ))}
            </div>
            <div class="fields">
                {draft.targetKind === "group" && (
                    <Text
                        {...field("target", "Group", "such as north")}
                        suggestions={groupSuggestions(known)}
                    />
                )}
                {draft.targetKind === "selector" && (
                    <SelectorField
                        {...field("target", "Selector")}
                        known={known}
                        placeholder="such as model=x200,!quarantined"
                    />
                )}
                {draft.targetKind === "device" && <Text {...field("target", "Device", "such as pump-17")} />}
                {draft.targetKind === "list" && (
                    <Lines
                        {...field("target", "Device IDs", "one per line, or separated by commas")}
                        class="long"
                        rows={4}
                    />
                )}
            </div>
        </>
    );
}

function DocumentEditor(props: {
    label: string;
    value: string;
    set: (value: string) => void;
    problem: string;
}) {
    const { label, value, set, problem } = props;
    return (
        <div class="pad">
            <label>
                {label}
                <textarea
                    class="code"
                    rows={Math.min(20, Math.max(4, value.split("\n").length + 1))}
                    value={value}
                    onInput={(e) => set(e.currentTarget.value)}
                    spellcheck={false}
                    aria-invalid={problem !== ""}
                    aria-describedby="document-problem"
                />
            </label>
            <span id="document-problem" class="problem" role="status">
                {problem}
            </span>
        </div>
    );
}
