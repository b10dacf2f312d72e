/** Links to jobs and devices. */

import { shown } from "../format";
import { jobPath } from "../query";

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** A link to a job, or to a part of it. The style cuts a UUID: a selection that is copied has the whole. */
export function JobLink({ id, href = jobPath(id) }: { id: string; href?: string }) {
    return (
        <a class={uuid.test(id) ? "id uuid" : "id"} title={id} href={href}>
            {shown(id)}
        </a>
    );
}

/** Links, separated by commas. */
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
