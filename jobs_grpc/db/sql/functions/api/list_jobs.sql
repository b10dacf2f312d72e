-- depends on: job_states
-- Returns a page of jobs, newest first: those before (p_before_created_at, p_before_job_id).
--
-- Reads one index: that of the first filter that is set, in the order awaiting approval, target
-- device, target group, creator, document type, all devices, none. Each index also has the status, so
-- jobs in other statuses are not read; IN_PROGRESS and PAUSED are one status there. Jobs that another
-- filter excludes are read and skipped.
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
    p_created_until timestamptz DEFAULT NULL,
    p_awaiting_approval boolean DEFAULT NULL
) RETURNS SETOF jobs.job_states
LANGUAGE plpgsql STABLE  -- see set_read_time
-- Only the indexes jobs_newest_first* deliver the order. The page itself is still sorted.
-- settings: page
AS $$
DECLARE
    v_index text := CASE
        WHEN p_awaiting_approval THEN 'awaiting_approval'
        WHEN p_target_device_id IS NOT NULL THEN 'target_device'
        WHEN p_target_group_id IS NOT NULL THEN 'target_group'
        WHEN p_created_by IS NOT NULL THEN 'created_by'
        WHEN p_document_type IS NOT NULL THEN 'document_type'
        WHEN p_target_all THEN 'target_all'
        ELSE 'none'
    END;
    -- The statuses as numbered in the indexes.
    v_status_numbers integer[] := CASE
        WHEN p_awaiting_approval THEN '{0}'
        WHEN p_statuses IS NULL THEN '{0, 1, 2}'
        ELSE array_remove(ARRAY[
            CASE WHEN '{IN_PROGRESS, PAUSED}' && p_statuses THEN 0 END,
            CASE WHEN 'COMPLETED' = ANY (p_statuses) THEN 1 END,
            CASE WHEN 'CANCELED' = ANY (p_statuses) THEN 2 END
        ], NULL)
    END;
    -- Whether to add jobs that readers see as COMPLETED because they have expired, although they
    -- are stored as IN_PROGRESS.
    v_with_expired boolean := 1 = ANY (v_status_numbers) AND NOT 0 = ANY (v_status_numbers);
    -- Computed here, because in a generic plan under row-level security an expression with
    -- coalesce() is not an index condition, and an index scan starts at only one of several bounds.
    v_from timestamptz := coalesce(p_created_from, '-infinity');
    v_until timestamptz := coalesce(p_created_until, 'infinity');
    v_before_created_at timestamptz := least(p_before_created_at, v_until);
    v_before_job_id text :=
        CASE WHEN p_before_created_at < v_until THEN p_before_job_id ELSE '' END;
    v_end bigint := p_offset::bigint + p_limit;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);
    PERFORM jobs.set_read_time(jobs.clock_time());

    -- Reads the newest jobs of each status from the index, and returns the newest of all these.
    -- Only one branch of the inner UNION ALL runs.
    RETURN QUERY
    SELECT s.*
    FROM (
        SELECT newest.created_at, newest.job_id
        FROM unnest(v_status_numbers) AS statuses (number)
        CROSS JOIN LATERAL (
            SELECT c.created_at, c.job_id
            FROM (
                -- A job that is past its expiry opens no stage.
                (SELECT j.*
                FROM jobs.jobs j
                WHERE v_index = 'awaiting_approval' AND j.tenant_id = p_tenant_id
                  AND j.awaiting_approval AND j.status = 'IN_PROGRESS' AND j.deleted_at IS NULL
                  AND (j.expires_at IS NULL OR j.expires_at > jobs.now())
                  AND j.created_at >= v_from
                  AND (j.created_at, j.job_id) < (v_before_created_at, v_before_job_id)
                ORDER BY j.created_at DESC, j.job_id DESC)
                UNION ALL
                (SELECT j.*
                FROM jobs.jobs j
                WHERE v_index = 'target_device' AND j.tenant_id = p_tenant_id AND j.deleted_at IS NULL
                  AND j.target_device_id = p_target_device_id
                  AND CASE WHEN j.completed_at IS NOT NULL THEN 1
                           WHEN j.canceled_at IS NOT NULL THEN 2 ELSE 0 END = statuses.number
                  AND j.created_at >= v_from
                  AND (j.created_at, j.job_id) < (v_before_created_at, v_before_job_id)
                ORDER BY j.created_at DESC, j.job_id DESC)
                UNION ALL
                (SELECT j.*
                FROM jobs.jobs j
                WHERE v_index = 'target_group' AND j.tenant_id = p_tenant_id AND j.deleted_at IS NULL
                  AND j.target_group_id = p_target_group_id
                  AND CASE WHEN j.completed_at IS NOT NULL THEN 1
                           WHEN j.canceled_at IS NOT NULL THEN 2 ELSE 0 END = statuses.number
                  AND j.created_at >= v_from
                  AND (j.created_at, j.job_id) < (v_before_created_at, v_before_job_id)
                ORDER BY j.created_at DESC, j.job_id DESC)
                UNION ALL
                (SELECT j.*
                FROM jobs.jobs j
                WHERE v_index = 'created_by' AND j.tenant_id = p_tenant_id AND j.deleted_at IS NULL
                  AND j.created_by = p_created_by
                  AND CASE WHEN j.completed_at IS NOT NULL THEN 1
                           WHEN j.canceled_at IS NOT NULL THEN 2 ELSE 0 END = statuses.number
                  AND j.created_at >= v_from
                  AND (j.created_at, j.job_id) < (v_before_created_at, v_before_job_id)
                ORDER BY j.created_at DESC, j.job_id DESC)
                UNION ALL
                (SELECT j.*
                FROM jobs.jobs j
                WHERE v_index = 'document_type' AND j.tenant_id = p_tenant_id AND j.deleted_at IS NULL
                  AND j.document_type = p_document_type
                  AND CASE WHEN j.completed_at IS NOT NULL THEN 1
                           WHEN j.canceled_at IS NOT NULL THEN 2 ELSE 0 END = statuses.number
                  AND j.created_at >= v_from
                  AND (j.created_at, j.job_id) < (v_before_created_at, v_before_job_id)
                ORDER BY j.created_at DESC, j.job_id DESC)
                UNION ALL
                (SELECT j.*
                FROM jobs.jobs j
                WHERE v_index = 'target_all' AND j.tenant_id = p_tenant_id AND j.deleted_at IS NULL
                  AND j.target_all
                  AND CASE WHEN j.completed_at IS NOT NULL THEN 1
                           WHEN j.canceled_at IS NOT NULL THEN 2 ELSE 0 END = statuses.number
                  AND j.created_at >= v_from
                  AND (j.created_at, j.job_id) < (v_before_created_at, v_before_job_id)
                ORDER BY j.created_at DESC, j.job_id DESC)
                UNION ALL
                (SELECT j.*
                FROM jobs.jobs j
                WHERE v_index = 'none' AND j.tenant_id = p_tenant_id AND j.deleted_at IS NULL
                  AND j.created_at > '-infinity'
                  AND CASE WHEN j.completed_at IS NOT NULL THEN 1
                           WHEN j.canceled_at IS NOT NULL THEN 2 ELSE 0 END = statuses.number
                  AND j.created_at >= v_from
                  AND (j.created_at, j.job_id) < (v_before_created_at, v_before_job_id)
                ORDER BY j.created_at DESC, j.job_id DESC)
            ) c
            WHERE (p_document_type IS NULL OR c.document_type = p_document_type)
              AND (p_created_by IS NULL OR c.created_by = p_created_by)
              AND (p_target_device_id IS NULL OR c.target_device_id = p_target_device_id)
              AND (p_target_group_id IS NULL OR c.target_group_id = p_target_group_id)
              AND (p_target_all IS NULL OR c.target_all = p_target_all)
              AND (p_statuses IS NULL OR jobs.job_status_with_pause_at(
                      c.status, c.expires_at,
                      (SELECT p.in_progress FROM jobs.job_progress p
                       WHERE p.tenant_id = p_tenant_id AND p.job_id = c.job_id),
                      c.paused_at, jobs.now()
                  ) = ANY (p_statuses))
            ORDER BY c.created_at DESC, c.job_id DESC
            LIMIT v_end
        ) newest
        UNION ALL
        SELECT j.created_at, j.job_id
        FROM jobs.jobs j
        WHERE v_with_expired AND j.tenant_id = p_tenant_id AND j.deleted_at IS NULL
          AND j.status = 'IN_PROGRESS' AND j.expires_at <= jobs.now()
          AND (p_document_type IS NULL OR j.document_type = p_document_type)
          AND (p_created_by IS NULL OR j.created_by = p_created_by)
          AND (p_target_device_id IS NULL OR j.target_device_id = p_target_device_id)
          AND (p_target_group_id IS NULL OR j.target_group_id = p_target_group_id)
          AND (p_target_all IS NULL OR j.target_all = p_target_all)
          AND j.created_at >= v_from
          AND (j.created_at, j.job_id) < (v_before_created_at, v_before_job_id)
          AND EXISTS (
              SELECT FROM jobs.job_progress p
              WHERE p.tenant_id = p_tenant_id AND p.job_id = j.job_id AND p.in_progress = 0
              OFFSET 0
          )
        ORDER BY created_at DESC, job_id DESC
        LIMIT p_limit OFFSET p_offset
    ) page
    CROSS JOIN LATERAL (
        SELECT s.*
        FROM jobs.job_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = page.job_id
        OFFSET 0
    ) s
    ORDER BY page.created_at DESC, page.job_id DESC;
END $$;
