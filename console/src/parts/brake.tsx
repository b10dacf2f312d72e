/** The failure criteria: how far each is from tripping. */

import type { Job } from "../api/client";
import { count, counted, percent } from "../format";
import { criterion, stageName } from "../words";

export function Brake({ job }: { job: Job }) {
    const criteria = job.failure_criteria ?? [];
    if (!criteria.length) return null;
    return (
        <section class="card" aria-labelledby="brake">
            <h2 id="brake">Brake</h2>
            <div class="pad">
                {criteria.map((c, index) => {
                    const states = (job.criterion_states ?? []).filter((s) => s.criterion === index);
                    // Of the stages, the one that is nearest to its threshold.
                    const state = states.sort((a, b) => nearness(b) - nearness(a))[0];
                    return (
                        <div key={index} class="criterion">
                            <p>{criterion(c)}</p>
                            {state && (
                                <>
                                    <Gauge
                                        value={state.failure_count}
                                        limit={state.threshold}
                                        label={criterion(c)}
                                    />
                                    <p class="quiet">
                                        {counted(state.failure_count, "failure")}
                                        {c.percent
                                            ? `, ${percent(state.failure_count, state.basis_count)} of ${count(state.basis_count)}`
                                            : ""}
                                        {state.stage !== null && ` in ${stageName(job, state.stage)}`}; trips
                                        at {count(state.threshold)}
                                    </p>
                                </>
                            )}
                        </div>
                    );
                })}
            </div>
        </section>
    );
}

function nearness(state: { failure_count: number; threshold: number }): number {
    return state.failure_count / Math.max(state.threshold, 1);
}

/** The failures so far, and a tick at the limit. */
function Gauge({ value, limit, label }: { value: number; limit: number; label: string }) {
    const full = Math.max(value, (limit * 4) / 3, 1);
    const at = (n: number) => (n / full) * 1000;
    return (
        <svg
            class={`gauge ${limit && value >= limit ? "tripped" : ""}`}
            role="img"
            aria-label={`${label}: ${count(value)} of ${count(limit)}`}
            viewBox="0 0 1000 10"
            preserveAspectRatio="none"
        >
            <rect class="held" y="2" width="1000" height="6" />
            <rect class="failed" y="2" width={at(value)} height="6" />
            {limit > 0 && <rect class="limit" x={at(limit) - 2} width="4" height="10" />}
        </svg>
    );
}
