/** The timeline of a job: how many executions have finished over time, and the events that explain it. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { Event, Job } from "../api/client";
import { absolute, count, counted, span } from "../format";
import { ended, range, rate, useTimeline, type Point } from "../timeline";
import { awaitingApproval, event, eventTone } from "../words";
import { ago } from "./time";

const WIDTH = 1000;
const HEIGHT = 100;
// Marks that are closer to each other share a button.
const MARK_PERCENT = 4;
const MAX_WORDS = 3;

const layers: [keyof Point, string, string][] = [
    ["succeeded", "succeeded", "succeeded"],
    ["failed", "failed", "failed"],
    ["others", "canceled", "canceled or expired"],
];

export function JobTimeline({ job }: { job: Job }) {
    const { timeline, points } = useTimeline(job);
    const last = points.at(-1);
    if (!timeline || !last) return null;
    const [start, end] = range(job, points);
    const percent = (time: number) => Math.min(Math.max(((time - start) / (end - start)) * 100, 0), 100);
    const legend = layers.filter(([name]) => last[name]);
    const summary = legend.map(([name, , word]) => `${count(last[name])} ${word}`).join(", ");
    return (
        <section class="card" aria-labelledby="timeline">
            <h2>
                <span id="timeline">Timeline</span>
                <Rate job={job} points={points} />
            </h2>
            <div class="progress pad">
                <div class="plot">
                    <svg
                        role="img"
                        aria-label={
                            `${count(ended(last))} of ${counted(job.total_executions, "execution")} finished` +
                            ` from ${absolute(start)} to ${absolute(end)}: ${summary}`
                        }
                        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
                        preserveAspectRatio="none"
                    >
                        {/* Each layer covers the lower part of the one before it. */}
                        {[3, 2, 1].map((depth) => (
                            <path
                                key={depth}
                                class={layers[depth - 1]?.[1]}
                                d={area(points, depth, job.total_executions, percent)}
                            />
                        ))}
                    </svg>
                    <Marks job={job} marks={timeline.marks as Event[]} percent={percent}>
                        <p class="axis quiet">
                            <span>{absolute(start)}</span>
                            <span>{absolute(end)}</span>
                        </p>
                    </Marks>
                </div>
                <p class="legend">
                    {legend.map(([name, color, word]) => (
                        <span key={name}>
                            <span class={`dot swatch ${color}`} aria-hidden="true" />
                            {count(last[name])} {word}
                        </span>
                    ))}
                    <span class="quiet">
                        of {counted(job.total_executions, "device")}; a retried device counts when its current
                        attempt ends
                    </span>
                </p>
            </div>
        </section>
    );
}

/** The area below the sum of the first layers, in steps. */
function area(points: Point[], depth: number, total: number, percent: (time: number) => number): string {
    const steps = points.map((point) => {
        const sum = layers.slice(0, depth).reduce((n, [name]) => n + point[name], 0);
        const y = HEIGHT * (1 - sum / Math.max(total, 1));
        return `H${((percent(point.time) / 100) * WIDTH).toFixed(1)}V${y.toFixed(2)}`;
    });
    return `M0 ${HEIGHT}${steps.join("")}H${WIDTH}V${HEIGHT}Z`;
}

function Rate({ job, points }: { job: Job; points: Point[] }) {
    const { in_progress, queued } = job.execution_counts;
    // While it waits for an approval alone, the last rate says nothing about the time left.
    if (job.status !== "IN_PROGRESS" || (awaitingApproval(job) >= 0 && !in_progress && !queued)) return null;
    const perSecond = rate(points, range(job, points));
    const left = job.total_executions - ended(points.at(-1));
    if (!perSecond || !left) return <span class="quiet">nothing finished recently</span>;
    const [factor, unit] = perSecond >= 1 ? [1, "s"] : perSecond * 60 >= 1 ? [60, "min"] : [3600, "h"];
    const rounded = Math.round(perSecond * factor * 10) / 10;
    return (
        <span class="quiet">
            {count(rounded)} devices/{unit} · about {span(left / perSecond)} left
        </span>
    );
}

interface MarksProps {
    job: Job;
    marks: Event[];
    percent: (time: number) => number;
    children: ComponentChildren;
}

/** A button at the time of each mark, or of several close ones; and below `children`, the words of one button. */
function Marks({ job, marks, percent, children }: MarksProps) {
    const [chosen, choose] = useState("");
    const groups: { key: string; at: number; marks: Event[] }[] = [];
    for (const mark of marks) {
        const at = percent(Date.parse(mark.time ?? ""));
        const group = groups.at(-1);
        if (group && at - group.at < MARK_PERCENT) group.marks.push(mark);
        else groups.push({ key: `${mark.time} ${mark.type}`, at, marks: [mark] });
    }
    const shown = groups.find((group) => group.key === chosen) ?? groups.at(-1);
    if (!shown) return <>{children}</>;
    return (
        <>
            {groups.map((group) => (
                <button
                    key={group.key}
                    class={`mark ${group.marks.map(eventTone).find((tone) => tone !== "quiet") ?? ""}`}
                    style={{ left: `${group.at}%` }}
                    aria-label={group.marks.map((mark) => words(mark, job)).join("; ")}
                    onMouseEnter={() => choose(group.key)}
                    onFocus={() => choose(group.key)}
                    onClick={() => choose(group.key)}
                >
                    <span class="dot" aria-hidden="true" />
                </button>
            ))}
            {children}
            <ul class="words">
                {shown.marks.slice(-MAX_WORDS).map((mark, index) => (
                    <li key={index}>{words(mark, job)}</li>
                ))}
            </ul>
        </>
    );
}

function words(mark: Event, job: Job): string {
    return `${ago(mark.time ?? "")}: ${event(mark, job)}`;
}
