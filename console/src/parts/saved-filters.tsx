/** Filters of a list that the browser keeps under a name, for this tenant. */

import { useLocation } from "preact-iso";
import { useState } from "preact/hooks";
import { ApiError } from "../api/client";
import { shown } from "../format";
import { search, useQuery } from "../query";
import { caller } from "../session";
import { remember, remembered } from "../storage";
import { Dialog } from "./dialog";
import { Text } from "./fields";

// Maximum per list and tenant, and in total.
const MAX_SAVED = 20;
const MAX_TOTAL = 200;

interface Saved {
    tenant: string;
    /** The path of the list. */
    path: string;
    name: string;
    search: string;
}

function stored(): Saved[] {
    try {
        const saved: unknown = JSON.parse(remembered("filters"));
        return Array.isArray(saved) ? (saved as Saved[]) : [];
    } catch {
        return [];
    }
}

export function SavedFilters() {
    const { path } = useLocation();
    const [query] = useQuery();
    const [all, setAll] = useState(stored);
    const [isAsking, ask] = useState(false);
    const [name, setName] = useState("");
    const tenant = caller.value?.tenant_id ?? "";
    const text = search({ ...query, page: "" });
    const isHere = (s: Saved) => s.tenant === tenant && s.path === path;
    const here = all.filter(isHere);
    /** Another tab can have changed them. */
    const replace = (old: string, ...added: Saved[]) => {
        const kept = stored().filter((s) => !isHere(s) || s.name !== old);
        const others = kept.filter((s) => !isHere(s));
        const all = [...added, ...kept.filter(isHere)];
        const next = [...all, ...others];
        const limit = all.length > MAX_SAVED ? `A list has at most ${MAX_SAVED}` : "";
        const total = next.length > MAX_TOTAL ? `This browser stores at most ${MAX_TOTAL}` : "";
        if (added.length && (limit || total)) {
            throw new ApiError(`${limit || total} saved filters: delete one first`, "", 400);
        }
        remember("filters", JSON.stringify(next));
        setAll(next);
    };
    const trimmed = name.trim();
    const question = {
        title: "Save filter",
        children: <Text label="Name" value={name} set={setName} maxLength={40} autofocus />,
        action: "Save",
        incomplete: !trimmed,
        run: async () => replace(trimmed, { tenant, path, name: trimmed, search: text }),
    };
    return (
        <p class="quiet groups">
            {here.length > 0 && "Saved filters: "}
            {here.map((saved) => (
                <span key={saved.name}>
                    <a
                        class="button small"
                        href={path + saved.search}
                        aria-current={saved.search === text || undefined}
                    >
                        {shown(saved.name)}
                    </a>
                    <button
                        class="small"
                        aria-label={`Delete the filter ${saved.name}`}
                        onClick={() => replace(saved.name)}
                    >
                        ×
                    </button>
                </span>
            ))}
            {text && !here.some((s) => s.search === text) && (
                <button class="small" onClick={() => ask(true)}>
                    Save filter…
                </button>
            )}
            {isAsking && <Dialog question={question} close={() => ask(false)} />}
        </p>
    );
}
