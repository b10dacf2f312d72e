-- Adds the type of a change of an execution. Functions that decide changes pass them to functions that write and
-- count them: see docs/counts.md.
CREATE TYPE jobs.execution_change AS (
    n bigint,                               -- the position in the batch
    job_id text,
    device_id text,                         -- NULL: a group of executions
    outcome text,                           -- only changes that are APPLIED are written and counted
    previous_status jobs.execution_status,  -- as readers see it
    row_id tid,                             -- of the execution: its ctid
    stage smallint,                         -- NULL: the job has no rollout
    executions integer,                     -- how many: 1, or the size of the group

    -- Before the change, as in job_executions.
    execution_number integer,
    stored_status jobs.execution_status,
    failed_status jobs.execution_status,    -- this and the next two: of the failure that counts
    failed_code text,
    failed_at timestamptz,                  -- NULL: none counts
    retries integer,
    time_zone text,

    -- After the change. QUEUED: RetryExecutions starts over.
    new_status jobs.execution_status,
    status_details jsonb,                   -- NULL: keep the stored details
    failure_code text,                      -- NULL: the attempt did not fail by itself; '': it has no code
    times_out_at timestamptz,
    end_cause text,                         -- NULL: the attempt ended by itself, or has not ended

    -- What decide_retries adds.
    needs_retry boolean,                    -- also if the retry budget does not allow it
    not_before timestamptz,                 -- of the next attempt, which is queued at once; NULL: none

    -- Of the job.
    is_expired boolean,
    has_rules boolean,                      -- it has failure criteria or gates that the change may affect
    execution_events boolean,

    -- What the start or report sets, see execution_columns.py. NULL: keep the stored value.
    reported_by text
);
