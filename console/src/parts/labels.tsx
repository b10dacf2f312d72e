/** Labels, each of which leads to what else has it. */

import { shown } from "../format";

interface Props {
    labels: Record<string, string>;
    /** What they are called, and what their keys begin with in selectors. */
    name?: string;
    prefix?: string;
    /** Where a label leads, as a term of a selector. */
    href: (term: string) => string;
}

/** A label as a term of a selector, which needs quotes around some characters. */
export function term(key: string, value: string): string {
    return `${key}=${/^[A-Za-z0-9._:/-]+$/.test(value) ? value : JSON.stringify(value)}`;
}

export function Labels(props: Props) {
    const { name = "Labels", prefix = "" } = props;
    const entries = Object.entries(props.labels);
    if (!entries.length) return null;
    return (
        <ul class="labels" aria-label={name}>
            {entries.map(([key, value]) => (
                <li key={key}>
                    <a href={props.href(term(prefix + key, value))}>
                        {shown(prefix + key)}={shown(value)}
                    </a>
                </li>
            ))}
        </ul>
    );
}
