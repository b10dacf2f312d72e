/** The fields of forms. */

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { shown } from "../format";
import type { Problems } from "../problems";
import type { Suggestions } from "../suggestions";

/** Returns the props of a field of a draft by its key, label and placeholder. `path`: that of a part of the draft. */
export function bind<D>(draft: D, set: (changes: Partial<D>) => void, problems: Problems = {}, path = "") {
    return <K extends keyof D & string>(key: K, label: string, placeholder?: string) => ({
        label,
        placeholder,
        value: draft[key],
        problem: problems[path + key],
        set: (value: D[K]) => set({ [key]: value } as unknown as Partial<D>),
    });
}

/** The problem of the field `id`, above the input, so that inputs in one row stay aligned. */
export function Problem({ id, text }: { id: string; text: string | undefined }) {
    if (!text) return null;
    // The description of the field, not a part of its name.
    return (
        <span class="problem" id={`${id}-problem`} aria-hidden="true">
            {shown(text)}
        </span>
    );
}

/** The attributes of a field that has a problem. */
export function marked(id: string, problem: string | undefined) {
    return problem ? { "aria-invalid": true, "aria-describedby": `${id}-problem` } : {};
}

export function Text(props: {
    label: string;
    value: string;
    set: (value: string) => void;
    placeholder?: string;
    required?: boolean;
    numeric?: boolean;
    type?: "text" | "url" | "time" | "datetime-local";
    class?: string;
    maxLength?: number;
    autofocus?: boolean;
    problem?: string;
    /** Values to choose from. */
    suggestions?: Suggestions;
    /** The name of the field in a form that is submitted. */
    name?: string;
}) {
    const id = useId();
    return (
        <label class={props.class}>
            {props.label}
            <Problem id={id} text={props.problem} />
            <input
                {...marked(id, props.problem)}
                name={props.name}
                value={props.value}
                onInput={(e) => props.set(e.currentTarget.value)}
                placeholder={props.placeholder}
                required={props.required}
                type={props.type ?? "text"}
                inputMode={props.numeric ? "numeric" : undefined}
                maxLength={props.maxLength}
                autofocus={props.autofocus}
                autocomplete="off"
                spellcheck={false}
                list={props.suggestions && id}
            />
            {props.suggestions && <Choices id={id} values={props.suggestions} />}
        </label>
    );
}

/** The suggestions of an input, whose attribute `list` is the ID. */
function Choices({ id, values }: { id: string; values: Suggestions }) {
    return (
        <datalist id={id}>
            {Object.entries(values).map(([value, text]) => (
                // Not as its content, which would be part of the text of the label of the field.
                <option key={value} value={value} label={text ? `${value} (${text})` : undefined} />
            ))}
        </datalist>
    );
}

/** A text of several lines. It grows with them. */
export function Lines(props: {
    label: string;
    value: string;
    set: (value: string) => void;
    placeholder?: string;
    problem?: string;
    class?: string;
    /** At first; it grows. */
    rows?: number;
}) {
    const id = useId();
    return (
        <label class={props.class}>
            {props.label}
            <Problem id={id} text={props.problem} />
            <textarea
                {...marked(id, props.problem)}
                rows={Math.max(props.rows ?? 1, Math.min(8, props.value.split("\n").length))}
                value={props.value}
                onInput={(e) => props.set(e.currentTarget.value)}
                placeholder={props.placeholder}
                spellcheck={false}
            />
        </label>
    );
}

export function Select<K extends string>(props: {
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

export function Check(props: { label: string; checked: boolean; set: (checked: boolean) => void }) {
    return (
        <label class="check">
            <input
                type="checkbox"
                checked={props.checked}
                onChange={(e) => props.set(e.currentTarget.checked)}
            />
            {props.label}
        </label>
    );
}

/** A text of a form of filters. It is read when the form is submitted, and follows the URL until then. */
export function FilterField(props: {
    name: string;
    label: string;
    value: string | undefined;
    placeholder?: string;
    type?: "datetime-local";
    class?: string;
    suggestions?: Suggestions;
}) {
    const id = useId();
    const input = useRef<HTMLInputElement>(null);
    useEffect(() => {
        if (input.current) input.current.value = props.value ?? "";
    }, [props.value]);
    return (
        <label class={props.class}>
            {props.label}
            <input
                ref={input}
                name={props.name}
                type={props.type}
                placeholder={props.placeholder}
                autocomplete="off"
                spellcheck={false}
                list={props.suggestions && id}
            />
            {props.suggestions && <Choices id={id} values={props.suggestions} />}
        </label>
    );
}

/** A form of filters, which a narrow screen folds. */
export function Filters(props: {
    class?: string;
    /** Gets the texts of the fields by name. */
    submit: (texts: Record<string, string>) => void;
    children: ComponentChildren;
}) {
    const [isOpen, setOpen] = useState(false);
    return (
        <form
            class={`filters ${props.class ?? ""} ${isOpen ? "open" : ""}`}
            onSubmit={(event) => props.submit(submitted(event))}
            role="search"
        >
            <button type="button" class="fold" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
                Filters
            </button>
            {props.children}
            <button>Filter</button>
        </form>
    );
}

/** The texts of a submitted form by name, without spaces around them. */
export function submitted(event: SubmitEvent): Record<string, string> {
    event.preventDefault();
    const entries = [...new FormData(event.currentTarget as HTMLFormElement)];
    return Object.fromEntries(entries.map(([name, value]) => [name, String(value).trim()]));
}
