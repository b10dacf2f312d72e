-- depends on: execution_states
-- Returns a page of one device's executions across jobs, newest first: those before
-- (p_before_queued_at, p_before_job_id).
CREATE OR REPLACE FUNCTION jobs.list_device_executions(
    p_tenant_id text,
    p_device_id text,
    p_job_id text,                   -- NULL: all
    p_status text,                   -- NULL: all
    p_before_queued_at timestamptz,  -- NULL: from the newest
    p_before_job_id text,
    p_limit integer
) RETURNS SETOF jobs.execution_states
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- The index on the sort key must deliver the order; see list_jobs.
SET enable_sort = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT s.*
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.device_id = p_device_id
      AND (p_job_id IS NULL OR s.job_id = p_job_id)
      AND (p_status IS NULL OR s.status = p_status)
      AND (s.queued_at, s.job_id)
          < (coalesce(p_before_queued_at, 'infinity'), coalesce(p_before_job_id, ''))
    ORDER BY s.queued_at DESC, s.job_id DESC
    LIMIT p_limit;
END $$;
