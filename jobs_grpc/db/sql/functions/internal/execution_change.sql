-- Returns a jobs.execution_change: the parameters are its fields, without the two that decide_retries sets. See
-- the type. Use named arguments; the defaults are those of a change of one execution. PostgreSQL inlines this
-- function.
CREATE OR REPLACE FUNCTION jobs.execution_change(
    job_id text,
    device_id text DEFAULT NULL,
    n bigint DEFAULT 1,
    outcome text DEFAULT 'APPLIED',
    previous_status jobs.execution_status DEFAULT NULL,
    row_id tid DEFAULT NULL,
    stage smallint DEFAULT NULL,
    executions integer DEFAULT 1,
    execution_number integer DEFAULT NULL,
    stored_status jobs.execution_status DEFAULT NULL,
    failed_status jobs.execution_status DEFAULT NULL,
    failed_code text DEFAULT NULL,
    failed_at timestamptz DEFAULT NULL,
    retries integer DEFAULT 0,
    time_zone text DEFAULT NULL,
    new_status jobs.execution_status DEFAULT NULL,
    status_details jsonb DEFAULT NULL,
    failure_code text DEFAULT NULL,
    times_out_at timestamptz DEFAULT NULL,
    end_cause text DEFAULT NULL,
    is_expired boolean DEFAULT false,
    has_rules boolean DEFAULT false,
    execution_events boolean DEFAULT false,
    /* for each reported FIELD: FIELD TYPE DEFAULT NULL */
) RETURNS jobs.execution_change
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW(
    n, job_id, device_id, outcome, previous_status, row_id, stage, executions,
    execution_number, stored_status, failed_status, failed_code, failed_at, retries, time_zone,
    new_status, status_details, failure_code, times_out_at, end_cause,
    false, NULL, is_expired, has_rules, execution_events, /* for each reported FIELD: FIELD */
)::jobs.execution_change;
