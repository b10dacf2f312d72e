-- Adds an update as decide_updates passes it to the other functions that apply it.
CREATE TYPE jobs.decided_update AS (
    n bigint,                               -- the position in the batch
    job_id text,
    device_id text,
    outcome text,
    previous_status jobs.execution_status,  -- as readers see it
    row_id tid,                             -- of the execution
    stored_status jobs.execution_status,
    new_status jobs.execution_status,
    status_details jsonb,                   -- NULL: keep the stored details
    failure_code text,
    times_out_at timestamptz,
    stage smallint,
    has_rules boolean                       -- the job has failure criteria or a rollout
);
