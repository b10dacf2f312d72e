/** Labels, each of which leads to what else has it. */

import { shown } from "../format";

export function Labels(props: { labels: Record<string, string>; href: (label: string) => string }) {
    const entries = Object.entries(props.labels);
    if (!entries.length) return null;
    return (
        <ul class="labels" aria-label="Labels">
            {entries.map(([key, value]) => (
                <li key={key}>
                    <a href={props.href(encodeURIComponent(`${key}=${value}`))}>
                        {shown(key)}={shown(value)}
                    </a>
                </li>
            ))}
        </ul>
    );
}
