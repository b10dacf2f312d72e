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
                <Text {...field("startAt", `Start at (${zone})`)} type="datetime-local" />
                <Text {...field("windowStart", "Start window opens at")} type="time" />
                <Text {...field("windowHours", "Length of the window (hours)")} numeric />
                <Text
                    {...field("windowZone", "Time zone of the window (DEVICE: each device's own)")}
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
                <Text {...field("retryAttempts", "Maximum attempts per device", "1")} numeric />
                <Text {...field("retryCodes", "Retry only these failure codes", "any failure")} />
                <Text {...field("timeoutMinutes", "Timeout of an execution (minutes)", "none")} numeric />
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
