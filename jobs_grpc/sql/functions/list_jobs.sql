-- Jobs, newest first, from after (p_before_created_at, p_before_job_id) if given.
CREATE OR REPLACE FUNCTION jobs.list_jobs(
    p_tenant_id text,
    p_status text,                    -- NULL: all
    p_before_created_at timestamptz,  -- NULL: from the newest
    p_before_job_id text,
    p_limit integer,
    p_offset integer
) RETURNS SETOF jobs.job_states
LANGUAGE plpgsql
-- The limit is unknown when the plan is made, and the guess, a tenth of the rows, would
-- read and sort them all. The index gives the order, and a page is a few of its rows.
SET enable_sort = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_states s
    WHERE s.tenant_id = p_tenant_id
      AND (p_status IS NULL OR s.status = p_status)
      AND (s.created_at, s.job_id)
          < (coalesce(p_before_created_at, 'infinity'), coalesce(p_before_job_id, ''))
    ORDER BY s.created_at DESC, s.job_id DESC
    LIMIT p_limit OFFSET p_offset;
END $$;
