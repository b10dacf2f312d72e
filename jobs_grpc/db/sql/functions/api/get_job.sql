-- Returns a job and the first page of its executions, both from one snapshot. The page is one array
-- per column: see execution_page.
--
-- Raises JOB_NOT_FOUND.
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
-- settings: page
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);
    PERFORM jobs.set_read_time(jobs.clock_time());

    RETURN QUERY
    SELECT s.*, e.*
    FROM jobs.job_details s
    CROSS JOIN LATERAL (
        -- As in execution_page. A call of that function would take a tenth longer.
        SELECT
            array_agg(e.device_id),
            array_agg(CASE WHEN e.bytes_before < 8388608 THEN e.status END),
            array_agg(CASE WHEN e.bytes_before < 8388608 THEN e.status_details END),
            array_agg(e.execution_number), array_agg(e.version), array_agg(e.queued_at),
            array_agg(e.started_at), array_agg(e.last_updated_at), array_agg(e.times_out_at),
            array_agg(e.failure_code), array_agg(e.stage)
        FROM (
            SELECT
                page.*,
                coalesce(sum(octet_length(page.status_details::text))
                    OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before
            FROM (
                SELECT e.*
                FROM jobs.execution_states e
                WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
                ORDER BY e.device_id
                LIMIT p_executions_limit
            ) page
        ) e
    ) e
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;

    IF NOT FOUND THEN
        PERFORM jobs.raise_error('JOB_NOT_FOUND');
    END IF;
END $$;
