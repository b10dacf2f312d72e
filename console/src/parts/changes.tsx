/** The last changes of a job, for a person whose view of it was out of date. */

import type { Job } from "../api/client";
import { readNewestEvents } from "../api/reads";
import { useLoaded } from "../load";
import { EventList } from "./history";

const SHOWN = 3;

export function Changes({ job }: { job: Job }) {
    const { data } = useLoaded(job.job_id, (signal) => readNewestEvents(job.job_id, SHOWN, signal));
    return (
        <div class="notice warn" role="alert">
            <p>The job has changed since this page showed it. Go back, look at it and decide again.</p>
            {data && <EventList events={data.items} job={job} />}
        </div>
    );
}
