/** The failure criteria: how far each is from tripping. */

import type { Criterion, CriterionState, Job } from "../api/client";
import { count, counted, percent } from "../format";
import { criterion, failures, isActive, stageName } from "../words";

export function Criteria({ job }: { job: Job }) {
    const criteria = job.failure_criteria ?? [];
    if (!criteria.length) return null;
    return (
        <section class="card" aria-labelledby="criteria">
            <h2 id="criteria">Failure criteria</h2>
            <div class="pad">
                <p class="quiet">A criterion pauses or cancels the job when too many devices fail.</p>
                {criteria.map((c, index) => {
                    const states = (job.criterion_states ?? []).filter((s) => s.criterion_index === index);
                    // Of the stages, the one that tripped or else the one that is nearest to its threshold.
                    const hasTripped = (s: CriterionState) => tripOf(job, c, s) !== null;
                    const nearest = states.sort((a, b) => nearness(b) - nearness(a))[0];
                    const state = states.find(hasTripped) ?? nearest;
                    return (
                        <div key={index} class="criterion">
                            <p>{criterion(c)}</p>
                            {state && <Progress job={job} criterion={c} state={state} />}
                        </div>
                    );
                })}
            </div>
        </section>
    );
}

function Progress({ job, criterion: c, state }: { job: Job; criterion: Criterion; state: CriterionState }) {
    const trip = tripOf(job, c, state);
    const { failure_count: failed, basis_count: basis, threshold } = state;
    const missing = missingForMinimum(job, c, state);
    const counts = [
        counted(failed, "failure"),
        c.percent && basis ? `, ${percent(failed, basis)} of ${count(basis)}` : "",
        state.stage === null ? "" : ` in ${stageName(job, state.stage)}`,
        hasRestarted(job) ? " since the job was resumed" : "",
    ].join("");
    const rule = trip
        ? `tripped at ${count(trip.failure_count)}${trip.basis_count ? ` of ${count(trip.basis_count)}` : ""}`
        : missing || (threshold && `trips at ${count(threshold)}`);
    return (
        <>
            <Gauge
                value={failed}
                limit={trip || missing ? 0 : threshold}
                isTripped={trip !== null}
                label={criterion(c)}
            />
            <p class="quiet">{rule ? `${counts}; ${rule}` : counts}</p>
        </>
    );
}

/** The trip that has stopped the job by this criterion. */
function tripOf(job: Job, c: Criterion, state: CriterionState) {
    if (!job.trip || hasRestarted(job)) return null;
    // ResumeJob has reset the counts of a job that has ended since.
    if (
        !isActive(job) &&
        job.trip.criterion.action === "PAUSE" &&
        state.failure_count < job.trip.failure_count
    )
        return null;
    const isThis = JSON.stringify(job.trip.criterion) === JSON.stringify(c) && job.trip.stage === state.stage;
    return isThis ? job.trip : null;
}

/** The job has tripped and continues: ResumeJob has reset the counts. */
function hasRestarted(job: Job): boolean {
    return job.trip !== null && isActive(job) && job.pause?.cause !== "FAILURE_CRITERION";
}

/** Why the criterion can't trip yet; "": it can. */
function missingForMinimum(job: Job, c: Criterion, state: CriterionState): string {
    const minimum = c.percent ? c.min_finished : 0;
    const counts = state.stage === null ? job.execution_counts : job.stages?.[state.stage]?.execution_counts;
    // The exact number is known only if it is the basis: this one is not less.
    const atMost = counts ? counts.succeeded + failures(counts) + job.retrying_count : 0;
    const finished = c.basis === "FINISHED" ? state.basis_count : atMost;
    if (finished >= minimum) return "";
    return `counts from ${counted(minimum, "finished device")}, ${count(finished)} so far`;
}

function nearness(state: CriterionState): number {
    return state.failure_count / Math.max(state.threshold, 1);
}

/** The failures so far, and a tick at the limit. Without a limit, the bar is empty until it has tripped. */
function Gauge(props: { value: number; limit: number; isTripped: boolean; label: string }) {
    const { value, limit, isTripped, label } = props;
    const full = Math.max(value, (limit * 4) / 3, 1);
    const at = (n: number) => (n / full) * 1000;
    const isRed = isTripped || (limit > 0 && value >= limit);
    return (
        <svg
            class={`gauge ${isRed ? "tripped" : ""}`}
            role="img"
            aria-label={`${label}: ${counted(value, "failure")}${limit ? ` of ${count(limit)}` : ""}`}
            viewBox="0 0 1000 10"
            preserveAspectRatio="none"
        >
            <rect class="held" y="2" width="1000" height="6" />
            {(limit > 0 || isTripped) && <rect class="failed" y="2" width={at(value)} height="6" />}
            {limit > 0 && <rect class="limit" x={at(limit) - 2} width="4" height="10" />}
        </svg>
    );
}
