/** Links to jobs or devices, separated by commas. */

import { shown } from "../format";

export function Links({ ids, href }: { ids: string[]; href: (id: string) => string }) {
    return (
        <>
            {ids.map((id, index) => (
                <span key={id}>
                    {index > 0 && ", "}
                    <a href={href(id)}>{shown(id)}</a>
                </span>
            ))}
        </>
    );
}
