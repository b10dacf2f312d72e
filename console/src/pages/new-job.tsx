/** Creates a job: which devices, what, in which stages, when. The service checks it before the button is enabled. */

import { useLocation } from "preact-iso";
import { useEffect, useState } from "preact/hooks";
import { ApiError, api, body, type CreateJobRequest } from "../api/client";
import { readJob } from "../api/reads";
import { command, quote } from "../commands";
import {
    copyOf,
    documentProblem,
    DraftError,
    draftRequest,
    draftRollout,
    draftTarget,
    emptyCriterion,
    emptyDraft,
    emptyStage,
    summary,
    type CriterionDraft,
    type Draft,
    type StageDraft,
    type TargetKind,
} from "../draft";
import { counted, shown } from "../format";
import { useLoaded } from "../load";
import { ErrorNotice } from "../parts/notices";
import { Terminal } from "../parts/terminal";
import { Time } from "../parts/time";
import { jobPath, useQuery } from "../query";
import { may } from "../session";

// How long a field must rest before the service is asked.
const REST_MS = 400;

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
    const [query] = useQuery();
    const copied = useLoaded(query.copy ?? null, (signal) => readJob(query.copy ?? "", signal));
    if (!may("CreateJob"))
        return (
            <div class="notice warn" role="alert">
                <p>Your roles do not allow you to create jobs.</p>
            </div>
        );
    if (query.copy && copied.error) return <ErrorNotice error={copied.error} />;
    if (query.copy && !copied.data) return <p class="quiet loading">Loading {shown(query.copy)} …</p>;
    const start = copied.data ? copyOf(copied.data) : { ...emptyDraft, ...fromQuery(query) };
    return <Form key={query.copy ?? ""} start={start} copied={query.copy} />;
}

function fromQuery(query: Record<string, string>): Partial<Draft> {
    const kinds: TargetKind[] = ["group", "selector", "device"];
    const kind = kinds.find((k) => query[k]);
    return kind ? { targetKind: kind, target: query[kind] ?? "" } : {};
}

function Form({ start, copied }: { start: Draft; copied: string | undefined }) {
    const [draft, setDraft] = useState(start);
    const [error, setError] = useState<ApiError | null>(null);
    const [busy, setBusy] = useState(false);
    const { route } = useLocation();
    const set = (changes: Partial<Draft>) => setDraft({ ...draft, ...changes });

    let request: CreateJobRequest | null = null;
    let problem: DraftError | null = null;
    try {
        request = draftRequest(draft);
    } catch (e) {
        problem = e as DraftError;
    }
    const rested = useRested(request);
    const check = useLoaded(rested ? JSON.stringify(rested) : null, (signal) =>
        body(api.POST("/customer/jobs", { body: { ...rested!, validate_only: true }, signal })),
    );
    const isChecked =
        request !== null && check.data !== undefined && JSON.stringify(rested) === JSON.stringify(request);
    const preview = usePreview(draft);
    const submit = async (event: SubmitEvent) => {
        event.preventDefault();
        if (!request || !isChecked) return;
        setBusy(true);
        setError(null);
        try {
            const digest = check.data?.preview?.target_digest;
            const created = await body(
                api.POST("/customer/jobs", { body: { ...request, expected_target_digest: digest } }),
            );
            route(jobPath(created.job_id));
        } catch (e) {
            setError(e instanceof ApiError ? e : new ApiError(String(e), "", 400));
            setBusy(false);
            check.reload();
        }
    };
    const devices = check.data?.execution_count ?? preview.data?.device_count;
    const sizes = check.data?.preview?.stage_sizes ?? preview.data?.stage_sizes ?? [];
    return (
        <form class="new" onSubmit={submit}>
            <h1>{copied ? `New job like ${shown(copied)}` : "New job"}</h1>

            <fieldset class="card">
                <legend>What</legend>
                <div class="fields">
                    <Text
                        label="Job ID"
                        value={draft.jobId}
                        set={(jobId) => set({ jobId })}
                        placeholder="generated if empty"
                    />
                    <Text
                        label="Document type"
                        value={draft.type}
                        set={(type) => set({ type })}
                        placeholder="reboot"
                        required
                    />
                    <Text
                        label="Labels"
                        value={draft.labels}
                        set={(labels) => set({ labels })}
                        placeholder="release=2.1 team=pumps"
                    />
                    <Text
                        label="Description"
                        value={draft.description}
                        set={(description) => set({ description })}
                    />
                </div>
                <DocumentEditor
                    value={draft.document}
                    set={(document) => set({ document })}
                    problem={documentProblem(draft.document)}
                />
            </fieldset>

            <fieldset class="card">
                <legend>Which devices</legend>
                <TargetFields draft={draft} set={set} />
                <Preview preview={preview} />
            </fieldset>

            <fieldset class="card">
                <legend>In which stages</legend>
                <StageFields stages={draft.stages} sizes={sizes} set={(stages) => set({ stages })} />
                <div class="fields">
                    <Text
                        label="Devices at a time"
                        value={draft.maxInProgress}
                        set={(maxInProgress) => set({ maxInProgress })}
                        placeholder="no limit"
                        numeric
                    />
                </div>
            </fieldset>

            <fieldset class="card">
                <legend>When to stop</legend>
                <CriterionFields criteria={draft.criteria} set={(criteria) => set({ criteria })} />
            </fieldset>

            <details class="card">
                <summary>When to start, retries, timeouts</summary>
                <div class="fields">
                    <label>
                        Start at (time of this browser)
                        <input
                            type="datetime-local"
                            value={draft.startAt}
                            onInput={(e) => set({ startAt: e.currentTarget.value })}
                        />
                    </label>
                    <label>
                        Devices start only from
                        <input
                            type="time"
                            value={draft.windowStart}
                            onInput={(e) => set({ windowStart: e.currentTarget.value })}
                        />
                    </label>
                    <Text
                        label="For, in hours"
                        value={draft.windowHours}
                        set={(windowHours) => set({ windowHours })}
                        numeric
                    />
                    <Text
                        label="Time zone (DEVICE: of each device)"
                        value={draft.windowZone}
                        set={(windowZone) => set({ windowZone })}
                    />
                    <Text
                        label="Attempts of a device"
                        value={draft.retryAttempts}
                        set={(retryAttempts) => set({ retryAttempts })}
                        placeholder="1"
                        numeric
                    />
                    <Text
                        label="Retry only these codes"
                        value={draft.retryCodes}
                        set={(retryCodes) => set({ retryCodes })}
                        placeholder="any failure"
                    />
                    <Text
                        label="Timeout of an execution, in minutes"
                        value={draft.timeoutMinutes}
                        set={(timeoutMinutes) => set({ timeoutMinutes })}
                        placeholder="none"
                        numeric
                    />
                    <Text
                        label="Expires after, in hours"
                        value={draft.expiresHours}
                        set={(expiresHours) => set({ expiresHours })}
                        placeholder="24 after the last start"
                        numeric
                    />
                    <Select
                        label="Priority"
                        value={draft.priority}
                        set={(priority) => set({ priority })}
                        options={{ LOW: "low", NORMAL: "normal", HIGH: "high" }}
                    />
                </div>
                {draft.more.windows.length + draft.more.rules.length > 0 && (
                    <p class="pad quiet">
                        Also copied: {counted(draft.more.windows.length, "more window")},{" "}
                        {counted(draft.more.rules.length, "more retry rule")}.
                    </p>
                )}
            </details>

            <section class="card create" aria-live="polite">
                {devices !== undefined && <p class="summary">{summary(draft, devices, sizes)}</p>}
                {check.data?.forecast?.summary && (
                    <p class="quiet">
                        {shown(check.data.forecast.summary)}; the last device can start{" "}
                        <Time at={check.data.forecast.last_start_at} /> at the earliest.
                    </p>
                )}
                {problem && <p class="quiet">{problem.message}</p>}
                {!problem && check.error && <ErrorNotice error={check.error} />}
                {error && <ErrorNotice error={error} />}
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

/** The options of `jobs-grpc create`. It reads stages, criteria, windows and retries from a file: here, from stdin. */
function terminalCommand(draft: Draft, request: CreateJobRequest) {
    const target = draft.target.trim();
    const option = {
        all: ["--all"],
        group: ["--group", target],
        selector: ["--where", target],
        device: ["--device", target],
        list: ["--device", ...(request.target_device_ids?.device_ids ?? [])],
    }[draft.targetKind];
    const { rollout, failure_criteria, start_windows, window_time_zone, retry_policy } = request;
    const file = JSON.stringify({ rollout, failure_criteria, start_windows, window_time_zone, retry_policy });
    const hasFile = file !== "{}";
    const optional = (name: string, value: string | number | undefined | null) =>
        value ? [name, String(value)] : [];
    const args = [
        "create",
        "--type",
        request.document_type,
        ...option,
        "--params",
        JSON.stringify(request.document_params),
        ...optional("--job-id", request.job_id),
        ...optional("--description", request.description),
        ...Object.entries(request.labels ?? {}).flatMap(([key, value]) => ["--label", `${key}=${value}`]),
        ...optional("--start-at", request.start_at),
        ...optional("--expires-in-hours", request.expires_in_hours),
        ...optional("--in-progress-timeout", request.in_progress_timeout_minutes),
        ...optional("--priority", request.priority?.toLowerCase()),
        ...(hasFile ? ["--rollout", "/dev/stdin"] : []),
    ];
    const { cli, curl } = command(args, "POST", "/customer/jobs", request);
    return { cli: hasFile ? `${cli} <<< ${quote(file)}` : cli, curl };
}

function usePreview(draft: Draft) {
    const target = draftTarget(draft);
    let rollout: CreateJobRequest["rollout"];
    try {
        rollout = draftRollout(draft);
    } catch {
        rollout = undefined;
    }
    const rested = useRested(target && { ...target, rollout });
    return useLoaded(rested ? JSON.stringify(rested) : null, (signal) =>
        body(api.POST("/customer/fleet:previewTarget", { body: rested!, signal })),
    );
}

function Preview({ preview }: { preview: ReturnType<typeof usePreview> }) {
    const { data, error } = preview;
    if (error) return <ErrorNotice error={error} />;
    if (!data) return <p class="pad quiet">Choose the devices to see how many they are.</p>;
    const samples = data.device_ids ?? [];
    const overlaps = data.overlapping_job_ids ?? [];
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
            {overlaps.length > 0 && (
                <p class="quiet">
                    Some are also in{" "}
                    {overlaps.map((id, index) => (
                        <span key={id}>
                            {index > 0 && ", "}
                            <a href={jobPath(id)}>{shown(id)}</a>
                        </span>
                    ))}
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

function TargetFields({ draft, set }: { draft: Draft; set: (changes: Partial<Draft>) => void }) {
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
                        label="Group"
                        value={draft.target}
                        set={(target) => set({ target })}
                        placeholder="north"
                    />
                )}
                {draft.targetKind === "selector" && (
                    <Text
                        label="Selector"
                        value={draft.target}
                        set={(target) => set({ target })}
                        placeholder="group in (north,south),model=x200,!quarantined"
                    />
                )}
                {draft.targetKind === "device" && (
                    <Text
                        label="Device"
                        value={draft.target}
                        set={(target) => set({ target })}
                        placeholder="pump-17"
                    />
                )}
                {draft.targetKind === "list" && (
                    <label class="long">
                        Device IDs
                        <textarea
                            rows={4}
                            value={draft.target}
                            onInput={(e) => set({ target: e.currentTarget.value })}
                            spellcheck={false}
                            placeholder="one per line, or separated by commas"
                        />
                    </label>
                )}
            </div>
        </>
    );
}

function StageFields(props: { stages: StageDraft[]; sizes: number[]; set: (stages: StageDraft[]) => void }) {
    const { stages, sizes, set } = props;
    const change = (index: number, changes: Partial<StageDraft>) =>
        set(stages.map((stage, i) => (i === index ? { ...stage, ...changes } : stage)));
    const add = () => {
        const rest: StageDraft = { ...emptyStage, kind: "rest", value: "" };
        set(
            stages.length
                ? [...stages.slice(0, -1), { ...emptyStage, value: "10" }, stages[stages.length - 1] ?? rest]
                : [emptyStage, rest],
        );
    };
    return (
        <>
            {!stages.length && <p class="pad quiet">All devices can start at once.</p>}
            {stages.map((stage, index) => (
                <div class="stage" key={index} role="group" aria-label={`Stage ${index}`}>
                    <span class="stage-number">
                        {index}
                        {sizes[index] !== undefined && (
                            <span class="quiet"> {counted(sizes[index], "device")}</span>
                        )}
                    </span>
                    <Select
                        label="Devices"
                        value={stage.kind}
                        set={(kind) => change(index, { kind, value: "" })}
                        options={{
                            percent: "percent",
                            count: "number",
                            group: "group",
                            selector: "selector",
                            rest: "the rest",
                        }}
                    />
                    {stage.kind !== "rest" && (
                        <Text label="Value" value={stage.value} set={(value) => change(index, { value })} />
                    )}
                    {index < stages.length - 1 && (
                        <>
                            <Text
                                label="Next if succeeded, %"
                                value={stage.succeeded}
                                set={(succeeded) => change(index, { succeeded })}
                                numeric
                            />
                            <Text
                                label="and after, min"
                                value={stage.bakeMinutes}
                                set={(bakeMinutes) => change(index, { bakeMinutes })}
                                numeric
                            />
                            <label class="check">
                                <input
                                    type="checkbox"
                                    checked={stage.approval}
                                    onChange={(e) => change(index, { approval: e.currentTarget.checked })}
                                />
                                and an approval
                            </label>
                        </>
                    )}
                    <button
                        type="button"
                        class="small"
                        aria-label={`Remove stage ${index}`}
                        onClick={() => set(stages.filter((_, i) => i !== index))}
                    >
                        Remove
                    </button>
                </div>
            ))}
            <div class="pad">
                <button type="button" onClick={add}>
                    Add stage
                </button>
            </div>
        </>
    );
}

function CriterionFields(props: { criteria: CriterionDraft[]; set: (criteria: CriterionDraft[]) => void }) {
    const { criteria, set } = props;
    const change = (index: number, changes: Partial<CriterionDraft>) =>
        set(criteria.map((c, i) => (i === index ? { ...c, ...changes } : c)));
    return (
        <>
            {!criteria.length && <p class="pad quiet">Failures do not stop the job.</p>}
            {criteria.map((c, index) => (
                <div class="stage" key={index} role="group" aria-label={`Criterion ${index + 1}`}>
                    <Text
                        label="Failures"
                        value={c.value}
                        set={(value) => change(index, { value })}
                        numeric
                    />
                    <Select
                        label="Unit"
                        value={c.kind}
                        set={(kind) => change(index, { kind })}
                        options={{ percent: "percent", count: "devices" }}
                    />
                    <Select
                        label="Of"
                        value={c.scope}
                        set={(scope) => change(index, { scope })}
                        options={{ JOB: "the whole job", STAGE: "a stage" }}
                    />
                    <Text
                        label="Only these codes"
                        value={c.codes}
                        set={(codes) => change(index, { codes })}
                        placeholder="any failure"
                    />
                    {c.kind === "percent" && (
                        <Text
                            label="After so many devices"
                            value={c.minFinished}
                            set={(minFinished) => change(index, { minFinished })}
                            numeric
                        />
                    )}
                    <Select
                        label="Then"
                        value={c.action}
                        set={(action) => change(index, { action })}
                        options={{ PAUSE: "pause", CANCEL: "cancel", FORCE_CANCEL: "cancel with force" }}
                    />
                    <button
                        type="button"
                        class="small"
                        aria-label={`Remove criterion ${index + 1}`}
                        onClick={() => set(criteria.filter((_, i) => i !== index))}
                    >
                        Remove
                    </button>
                </div>
            ))}
            <div class="pad">
                <button type="button" onClick={() => set([...criteria, emptyCriterion])}>
                    Add criterion
                </button>
            </div>
        </>
    );
}

function DocumentEditor({
    value,
    set,
    problem,
}: {
    value: string;
    set: (value: string) => void;
    problem: string;
}) {
    return (
        <label class="long pad">
            Document parameters (JSON)
            <textarea
                class="code"
                rows={Math.min(20, Math.max(4, value.split("\n").length + 1))}
                value={value}
                onInput={(e) => set(e.currentTarget.value)}
                spellcheck={false}
                aria-invalid={problem !== ""}
                aria-describedby="document-problem"
            />
            <span id="document-problem" class="problem" role="status">
                {problem}
            </span>
        </label>
    );
}

function Text(props: {
    label: string;
    value: string;
    set: (value: string) => void;
    placeholder?: string;
    required?: boolean;
    numeric?: boolean;
}) {
    return (
        <label>
            {props.label}
            <input
                value={props.value}
                onInput={(e) => props.set(e.currentTarget.value)}
                placeholder={props.placeholder}
                required={props.required}
                inputMode={props.numeric ? "numeric" : "text"}
                autocomplete="off"
                spellcheck={false}
            />
        </label>
    );
}

function Select<K extends string>(props: {
    label: string;
    value: K;
    set: (value: K) => void;
    options: Record<K, string>;
}) {
    return (
        <label>
            {props.label}
            <select value={props.value} onChange={(e) => props.set(e.currentTarget.value as K)}>
                {(Object.entries(props.options) as [K, string][]).map(([value, text]) => (
                    <option key={value} value={value}>
                        {text}
                    </option>
                ))}
            </select>
        </label>
    );
}
