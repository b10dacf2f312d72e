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
                                    <Gauge value={nearness(state)} label={criterion(c)} />
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

function Gauge({ value, label }: { value: number; label: string }) {
    const shownValue = Math.min(value, 1);
    return (
        <svg
            class={`gauge ${value >= 1 ? "tripped" : ""}`}
            role="img"
            aria-label={`${label}: ${Math.round(value * 100)} % of the limit`}
            viewBox="0 0 1000 10"
            preserveAspectRatio="none"
        >
            <rect class="held" width="1000" height="10" />
            <rect class="failed" width={shownValue * 1000} height="10" />
        </svg>
    );
}
