-- depends on: execution_states
-- Returns a page of a device's pending executions: first those IN_PROGRESS, then those QUEUED. Each
-- group is sorted by (queued_at, job_id). Returns at most p_limit executions after the given
-- position.
CREATE OR REPLACE FUNCTION jobs.list_pending_executions(
    p_tenant_id text,
    p_device_id text,
    p_after_status text,            -- IN_PROGRESS or QUEUED; NULL: from the first execution
    p_after_queued_at timestamptz,  -- NULL if p_after_status is NULL
    p_after_job_id text,            -- NULL if p_after_status is NULL
    p_limit integer
) RETURNS SETOF jobs.execution_states
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    -- The stored status selects the partial index; the derived status excludes executions of
    -- canceled and expired jobs.
    RETURN QUERY
    SELECT s.*
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.device_id = p_device_id
      AND s.stored_status IN ('QUEUED', 'IN_PROGRESS')
      AND s.status IN ('QUEUED', 'IN_PROGRESS')
      AND (s.status = 'QUEUED', s.queued_at, s.job_id)
          > (coalesce(p_after_status = 'QUEUED', false),
             coalesce(p_after_queued_at, '-infinity'), coalesce(p_after_job_id, ''))
    ORDER BY s.status = 'QUEUED', s.queued_at, s.job_id
    LIMIT p_limit;
END $$;
