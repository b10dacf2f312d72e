/** When devices start, how often they try, and for how long. */

import type { ComponentChildren } from "preact";
import type { Draft } from "../draft";
import { counted } from "../format";
import { dayNames } from "../words";
import type { Problems } from "../problems";
import { bind, Check, Text } from "./fields";

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** The days after one was switched. None means every day. */
function daysWith(days: string[], day: string, on: boolean): string[] {
    const all = Object.keys(dayNames);
    const chosen = new Set(days.length ? days : all);
    if (on) chosen.add(day);
    else chosen.delete(day);
    return chosen.size === all.length ? [] : all.filter((name) => chosen.has(name));
}

export function TimingFields(props: {
    draft: Draft;
    set: (changes: Partial<Draft>) => void;
    problems?: Problems;
    children?: ComponentChildren;
}) {
    const { draft, set, problems, children } = props;
    const field = bind(draft, set, problems);
    return (
        <>
            <div class="fields">
                <Text label={`Start at (${zone})`} {...field("startAt")} type="datetime-local" />
                <Text label="Start window opens at" {...field("windowStart")} type="time" />
                <Text label="Length of the window (hours)" {...field("windowHours")} numeric />
                <Text
                    label="Time zone of the window (DEVICE: each device's own)"
                    {...field("windowZone")}
                    suggestions={{ UTC: "", DEVICE: "", [zone]: "" }}
                />
                <fieldset class="long">
                    <legend>Days of the window</legend>
                    <div class="choices">
                        {Object.entries(dayNames).map(([day, name]) => (
                            <Check
                                key={day}
                                label={name}
                                checked={!draft.windowDays.length || draft.windowDays.includes(day)}
                                set={(on) => set({ windowDays: daysWith(draft.windowDays, day, on) })}
                            />
                        ))}
                    </div>
                </fieldset>
                <Text
                    label="Maximum attempts per device"
                    {...field("retryAttempts")}
                    placeholder="1"
                    numeric
                />
                <Text
                    label="Retry only these failure codes"
                    {...field("retryCodes")}
                    placeholder="any failure"
                />
                <Text
                    label="Timeout of an execution (minutes)"
                    {...field("timeoutMinutes")}
                    placeholder="none"
                    numeric
                />
                {children}
            </div>
            {draft.more.windows.length + draft.more.rules.length > 0 && (
                <p class="pad quiet">
                    Also copied: {counted(draft.more.windows.length, "more window")},{" "}
                    {counted(draft.more.rules.length, "more retry rule")}.
                </p>
            )}
        </>
    );
}
