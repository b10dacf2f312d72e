-- Returns a job and the first page of its executions, both from one snapshot. The page is one array
-- per column: see execution_page.
--
-- Raises JOB_NOT_FOUND.

-- The previous version returned fewer columns.
DROP FUNCTION IF EXISTS jobs.get_job(text, text, integer);

CREATE OR REPLACE FUNCTION jobs.get_job(
    p_tenant_id text, p_job_id text, p_executions_limit integer
) RETURNS TABLE (
    tenant_id text,
    job_id text,
    document_type text,
    document_params jsonb,
    target_device_id text,
    target_group_id text,
    target_all boolean,
    status text,
    expires_at timestamptz,
    created_by text,
    created_at timestamptz,
    updated_at timestamptz,
    cancel_reason text,
    total_executions integer,
    queued integer,
    in_progress integer,
    succeeded integer,
    failed integer,
    timed_out integer,
    rejected integer,
    completed_at timestamptz,
    in_progress_timeout_minutes integer,
    stored_status jobs.job_status,
    paused_at timestamptz,
    paused_by text,
    pause_reason text,
    revision integer,
    held integer,
    pause_cause text,
    trip jsonb,
    has_rollout_details boolean,
    rollout_details json,
    device_ids text[],
    statuses text[],
    status_details jsonb[],
    execution_numbers integer[],
    versions integer[],
    queued_ats timestamptz[],
    started_ats timestamptz[],
    last_updated_ats timestamptz[],
    times_out_ats timestamptz[],
    failure_codes text[],
    stages smallint[]
)
LANGUAGE plpgsql STABLE  -- see set_read_time
SET search_path = pg_catalog, pg_temp
-- Planning takes longer than these lookups by primary key.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_sort = off
SET jit = off
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);
    PERFORM jobs.set_read_time(clock_timestamp());

    RETURN QUERY
    SELECT s.*, e.*
    FROM jobs.job_details s
    CROSS JOIN LATERAL
        jobs.execution_page(p_tenant_id, p_job_id, NULL, '', p_executions_limit) e
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;

    IF NOT FOUND THEN
        PERFORM jobs.raise_error('JOB_NOT_FOUND');
    END IF;
END $$;
