/** Executions as a table: those of a job by device, or those of a device by job. */

import { isFailure } from "../actions";
import type { Execution } from "../api/client";
import { serverNow } from "../clock";
import { shown, span } from "../format";
import { executionState } from "../words";
import { Badge } from "./badge";
import { JobLink } from "./links";
import { Table } from "./table";
import { Time } from "./time";

const MAX_TEXT = 200;

export function ExecutionTable(props: {
    by: "Device" | "Job";
    executions: Execution[];
    href: (execution: Execution) => string;
    /** The name of a stage, if the executions have some. */
    stage?: (index: number) => string;
}) {
    const { by, executions, href, stage } = props;
    return (
        <Table
            class="stack"
            columns={{
                [by]: "",
                Status: "",
                Failure: "",
                Attempt: "number",
                Duration: "number",
                ...(stage && { Stage: "" }),
                Changed: "",
            }}
        >
            {executions.map((e) => {
                const name = by === "Job" ? (e.job_id ?? "") : e.device_id;
                const text = failureText(e);
                return (
                    <tr key={name}>
                        <td>
                            {by === "Job" ? (
                                <JobLink id={name} href={href(e)} />
                            ) : (
                                <a href={href(e)}>{shown(name)}</a>
                            )}
                        </td>
                        <td>
                            <Badge {...executionState(e)} />
                        </td>
                        <td class="failure">
                            {e.failure_code && <code>{shown(e.failure_code)}</code>}
                            {text && <div class="quiet">{text}</div>}
                        </td>
                        <td class="number extra">{e.execution_number}</td>
                        <td class="number extra">{duration(e)}</td>
                        {stage && <td class="extra">{e.stage !== null && stage(e.stage)}</td>}
                        <td class="quiet">
                            <Time at={e.last_updated_at} />
                        </td>
                    </tr>
                );
            })}
        </Table>
    );
}

/** Why the attempt failed: the reason in its details, or all that the device reported. */
function failureText(e: Execution): string {
    if (!isFailure(e.status) || !e.status_details) return "";
    const { reason } = e.status_details as Record<string, unknown>;
    const text =
        typeof reason === "string"
            ? reason
            : Object.entries(e.status_details)
                  .map(
                      ([name, value]) =>
                          `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`,
                  )
                  .join(", ");
    return shown(text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)} …` : text);
}

/** How long the attempt has run; "": it has not started. */
function duration(e: Execution): string {
    if (!e.started_at) return "";
    const end = e.status === "IN_PROGRESS" ? serverNow() : Date.parse(e.last_updated_at ?? "");
    return span(Math.max(0, end - Date.parse(e.started_at)) / 1000);
}
