-- Returns a page of a job's executions in the order of device_id, after p_after_device_id
-- ('': from the start). The page is one row with an array per column: see execution_page.
--
-- Raises JOB_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.list_job_executions(
    p_tenant_id text,
    p_job_id text,
    p_status text,  -- NULL: all
    p_after_device_id text,
    p_limit integer,
    p_failure_code text DEFAULT NULL  -- NULL: all; '': failures without a code
) RETURNS TABLE (
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
    stages smallint[],
    job_created_at timestamptz
)
LANGUAGE plpgsql STABLE  -- see set_read_time
-- settings: page
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);
    PERFORM jobs.set_read_time(jobs.clock_time());

    IF p_failure_code IS NOT NULL THEN
        RETURN QUERY
        SELECT e.*, j.created_at
        FROM jobs.jobs j
        CROSS JOIN LATERAL
            jobs.execution_page_of_failure(
                p_tenant_id, p_job_id, p_failure_code, p_status, p_after_device_id, p_limit
            ) e
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    ELSIF p_status IS NOT NULL THEN
        RETURN QUERY
        SELECT e.*, j.created_at
        FROM jobs.jobs j
        CROSS JOIN LATERAL
            jobs.execution_page_of_status(
                p_tenant_id, p_job_id, p_status, p_after_device_id, p_limit
            ) e
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    ELSE
        RETURN QUERY
        SELECT e.*, j.created_at
        FROM jobs.jobs j
        CROSS JOIN LATERAL
            jobs.execution_page(p_tenant_id, p_job_id, NULL, p_after_device_id, p_limit) e
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    END IF;

    IF NOT FOUND THEN
        PERFORM jobs.raise_error('JOB_NOT_FOUND');
    END IF;
END $$;
