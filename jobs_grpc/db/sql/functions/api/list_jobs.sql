-- depends on: job_states
-- Returns a page of jobs, newest first: those before (p_before_created_at, p_before_job_id).
CREATE OR REPLACE FUNCTION jobs.list_jobs(
    p_tenant_id text,
    p_statuses text[],                -- NULL: all
    p_before_created_at timestamptz,  -- NULL: from the newest
    p_before_job_id text,
    p_limit integer,
    p_offset integer,
    p_document_type text DEFAULT NULL,  -- NULL: all; the same for the filters below
    p_created_by text DEFAULT NULL,
    p_target_device_id text DEFAULT NULL,
    p_target_group_id text DEFAULT NULL,
    p_target_all boolean DEFAULT NULL,
    p_created_from timestamptz DEFAULT NULL,
    p_created_until timestamptz DEFAULT NULL
) RETURNS SETOF jobs.job_states
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- A page is a few rows of the index on the sort key, whatever the arguments, and planning takes
-- longer than reading them, so all calls use one generic plan. Its planner does not know p_limit
-- and assumes a tenth of all rows. The other settings exclude plans that look cheap under this
-- assumption: sorting all rows, hashing them, or reading them in parallel.
SET plan_cache_mode = force_generic_plan
SET max_parallel_workers_per_gather = 0
SET enable_sort = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    -- Computed here, because in a generic plan under row-level security an expression with
    -- coalesce() is not an index condition, and an index scan starts at only one of several bounds.
    v_from timestamptz := coalesce(p_created_from, '-infinity');
    v_until timestamptz := coalesce(p_created_until, 'infinity');
    v_before_created_at timestamptz := least(p_before_created_at, v_until);
    v_before_job_id text :=
        CASE WHEN p_before_created_at < v_until THEN p_before_job_id ELSE '' END;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_states s
    WHERE s.tenant_id = p_tenant_id
      -- The stored status excludes most jobs before their counts are looked up.
      AND (p_statuses IS NULL OR s.stored_status::text = ANY (p_statuses)
           OR s.stored_status = 'IN_PROGRESS' AND s.expires_at <= now())
      AND (p_statuses IS NULL OR s.status = ANY (p_statuses))
      AND (p_document_type IS NULL OR s.document_type = p_document_type)
      AND (p_created_by IS NULL OR s.created_by = p_created_by)
      AND (p_target_device_id IS NULL OR s.target_device_id = p_target_device_id)
      AND (p_target_group_id IS NULL OR s.target_group_id = p_target_group_id)
      AND (p_target_all IS NULL OR s.target_all = p_target_all)
      AND s.created_at >= v_from
      AND (s.created_at, s.job_id) < (v_before_created_at, v_before_job_id)
    ORDER BY s.created_at DESC, s.job_id DESC
    LIMIT p_limit OFFSET p_offset;
END $$;
