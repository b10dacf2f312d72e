/** Turns values of the API into text. */

import { computed, signal } from "@preact/signals";
import { remember, remembered } from "./storage";

const numbers = new Intl.NumberFormat("en-US");

export function count(n: number): string {
    return numbers.format(n);
}

/** A number with its noun: "1 device", "1,000 devices". */
export function counted(n: number, noun: string): string {
    return `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
}

/** A percentage with one decimal below 10 %, so that 0.4 % does not read as 0 %. */
export function percent(part: number, whole: number): string {
    if (whole === 0) return "0 %";
    const value = (part / whole) * 100;
    const rounded = value > 0 && value < 10 ? Math.round(value * 10) / 10 : Math.floor(value);
    return `${rounded} %`;
}

const units: [number, string, number][] = [
    [1, "s", 100],
    [60, "min", 100],
    [3600, "h", 48],
    [86_400, "d", Infinity],
];

/** A length of time in its largest fitting unit, such as "14 min". */
export function span(seconds: number): string {
    for (const [size, unit, limit] of units) {
        const n = Math.round(seconds / size);
        if (n < limit) return `${count(n)} ${unit}`;
    }
    return "";
}

/** A length of time to the second, for countdowns, such as "3 h 12 min" or "45 s". */
export function countdown(seconds: number): string {
    const s = Math.max(0, Math.round(seconds));
    const [d, h, m] = [Math.floor(s / 86_400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
    if (d) return `${d} d ${h} h`;
    if (h) return `${h} h ${m} min`;
    return m ? `${m} min ${s % 60} s` : `${s} s`;
}

export const HOUR_MS = 3_600_000;

/** A time relative to now, such as "2 h ago" or "in 3 d". Both in milliseconds. */
export function relative(time: number, now: number): string {
    const seconds = (now - time) / 1000;
    if (Math.abs(seconds) < 1) return "now";
    return seconds > 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;
}

/** Whether times are in UTC; otherwise in the zone of the browser. */
export const isUtc = signal(remembered("zone") === "UTC");

/** Chooses the zone of all times, which the browser remembers. */
export function chooseUtc(chosen: boolean): void {
    isUtc.value = chosen;
    remember("zone", chosen ? "UTC" : "");
}

// A formatter takes 50 KB or more, and a page shows hundreds of times.
const formats = computed(() => {
    const timeZone = isUtc.value ? "UTC" : undefined;
    return {
        dateAndTime: new Intl.DateTimeFormat("sv-SE", { timeZone, dateStyle: "short", timeStyle: "medium" }),
        zoneName: new Intl.DateTimeFormat("en-US", { timeZone, timeZoneName: "short" }),
    };
});

/** A time in the chosen zone, with the zone: "2026-11-29 14:03:05 GMT+1". */
export function absolute(time: number): string {
    const { dateAndTime, zoneName } = formats.value;
    const zone = zoneName.formatToParts(time).find((part) => part.type === "timeZoneName");
    return `${dateAndTime.format(time)} ${zone?.value ?? ""}`.trim();
}

/** A time in the chosen zone, as inputs have it: "2026-11-29T14:03". */
export function localTime(time: number): string {
    return formats.value.dateAndTime.format(time).slice(0, 16).replace(" ", "T");
}

/** The time of an input, in the chosen zone. NaN: it is no time. */
export function instant(text: string): number {
    return Date.parse(isUtc.value ? `${text}Z` : text);
}

/** When the day of a time begins in the chosen zone. */
export function startOfDay(time: number): number {
    return instant(`${localTime(time).slice(0, 10)}T00:00`);
}

/** The seconds of a duration of the API, such as "5400s". */
export function seconds(duration: string | null | undefined): number {
    return duration ? Number(duration.replace(/s$/, "")) : 0;
}

// Control characters, and those that change the direction of text or have no width.
const unsafe = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Stored text as it is shown: characters that are invisible or reorder text appear as escapes. */
export function shown(text: string): string {
    return text.replace(unsafe, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** JSON, indented, with the same escapes. */
export function json(value: unknown): string {
    return JSON.stringify(value, null, 2).replace(unsafe, (c) => (c === "\n" ? c : shown(c)));
}
