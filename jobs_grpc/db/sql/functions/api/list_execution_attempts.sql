-- Returns a page of the attempts of one device's execution of a job, newest first: at most
-- p_limit attempts with a number below p_before_number.
--
-- Raises EXECUTION_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.list_execution_attempts(
    p_tenant_id text,
    p_job_id text,
    p_device_id text,
    p_before_number integer,  -- NULL: from the current attempt
    p_limit integer
) RETURNS TABLE (
    device_id text,
    status text,
    status_details jsonb,
    execution_number integer,
    version integer,
    queued_at timestamptz,
    started_at timestamptz,
    last_updated_at timestamptz,
    times_out_at timestamptz,
    failure_code text,
    stage smallint,
    end_cause text,
    job_created_at timestamptz,
    not_before timestamptz,
    time_zone text,
    /* for each reported FIELD: FIELD TYPE */
)
LANGUAGE plpgsql STABLE
-- settings: tenant, index
AS $$
#variable_conflict use_column
DECLARE
    v_current record;
BEGIN
    SELECT s.*, (
        SELECT j.created_at
        FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
    ) AS job_created_at
    INTO v_current
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.device_id = p_device_id;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error('EXECUTION_NOT_FOUND');
    END IF;

    RETURN QUERY
    SELECT v_current.device_id, v_current.status, v_current.status_details,
           v_current.execution_number, v_current.version, v_current.queued_at,
           v_current.started_at, v_current.last_updated_at, v_current.times_out_at,
           v_current.failure_code, v_current.stage, v_current.end_cause, v_current.job_created_at,
           v_current.not_before, v_current.time_zone, /* for each reported FIELD: v_current.FIELD */
    WHERE p_before_number IS NULL OR v_current.execution_number < p_before_number
    UNION ALL
    (
        SELECT a.device_id, a.status::text, a.status_details, a.execution_number, a.version,
               a.queued_at, a.started_at, a.last_updated_at, NULL, a.failure_code,
               v_current.stage,
               -- Executions of a canceled job can't be retried.
               jobs.end_cause(a.status, a.failure_code, a.end_cause, false),
               v_current.job_created_at, NULL, v_current.time_zone, /* for each reported FIELD: a.FIELD */
        FROM jobs.execution_attempts a
        WHERE a.tenant_id = p_tenant_id AND a.job_id = p_job_id AND a.device_id = p_device_id
          AND a.execution_number < least(v_current.execution_number, p_before_number)
        ORDER BY a.execution_number DESC
        LIMIT p_limit
    )
    ORDER BY execution_number DESC
    LIMIT p_limit;
END $$;
