/** Selects items of a list, and offers what can be done with those that are selected. */

import type { ComponentChildren } from "preact";
import { count, counted } from "../format";
import { Check } from "./fields";

export function Selection<T>(props: {
    /** What an item is called. */
    noun: string;
    chosen: T[];
    /** All items of the page are selected. */
    isAll: boolean;
    selectAll: (on: boolean) => void;
    actions: { verb: string; destructive: boolean; can?: (item: T) => boolean; act: (items: T[]) => void }[];
    children?: ComponentChildren;
}) {
    const { noun, chosen, isAll, selectAll, actions, children } = props;
    return (
        <div class={chosen.length ? "bulk active" : "bulk"} role="toolbar" aria-label={`Selected ${noun}s`}>
            <Check
                label={chosen.length ? `${counted(chosen.length, noun)} selected` : "Select all on this page"}
                checked={isAll}
                set={selectAll}
            />
            {children}
            {actions.map(({ verb, destructive, can, act }) => {
                const some = can ? chosen.filter(can) : chosen;
                if (!some.length) return null;
                const which = some.length < chosen.length ? ` ${count(some.length)} of them` : "";
                return (
                    <button key={verb} class={destructive ? "danger" : ""} onClick={() => act(some)}>
                        {verb}
                        {which}…
                    </button>
                );
            })}
        </div>
    );
}
