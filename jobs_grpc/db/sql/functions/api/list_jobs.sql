-- Returns a page of jobs, newest first: those before (p_before_created_at, p_before_job_id).
--
-- Reads one index: that of the first filter that is set, in the order awaiting approval, target
-- device, target group, labels (see rarest_labels), prefix, creator, document type, all devices, none.
-- Each index also has the status, so jobs in other statuses are not read, except those of labels and of
-- the prefix; IN_PROGRESS, PAUSED and SCHEDULED are one status there. Without IN_PROGRESS and PAUSED, those
-- that are SCHEDULED are read from an index of their own. Jobs that another filter excludes are read and
-- skipped.
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
    p_awaiting_approval boolean DEFAULT NULL,
    p_selector jsonb DEFAULT NULL,      -- of labels, see matches_selector
    p_job_id_prefix text DEFAULT NULL
) RETURNS SETOF jobs.job_states
LANGUAGE plpgsql STABLE  -- see set_read_time
-- Only the indexes jobs_newest_first* deliver the order. The page itself is still sorted.
-- settings: tenant, page
AS $$
DECLARE
    v_filter text := CASE
        WHEN p_awaiting_approval THEN 'awaiting_approval'
        WHEN p_target_device_id IS NOT NULL THEN 'target_device'
        WHEN p_target_group_id IS NOT NULL THEN 'target_group'
        WHEN p_selector @? '$[*] ? (@.op == "in")' THEN 'label'
        WHEN p_job_id_prefix IS NOT NULL THEN 'prefix'
        WHEN p_created_by IS NOT NULL THEN 'created_by'
        WHEN p_document_type IS NOT NULL THEN 'document_type'
        WHEN p_target_all THEN 'target_all'
        ELSE 'none'
    END;
    v_value text := coalesce(
        p_target_device_id, p_target_group_id, p_created_by, p_document_type, ''
    );
    -- Computed here, because in a generic plan under row-level security an expression with
    -- coalesce() is not an index condition, and an index scan starts at only one of several bounds.
    v_from timestamptz := coalesce(p_created_from, '-infinity');
    v_until timestamptz := coalesce(p_created_until, 'infinity');
    v_before_created_at timestamptz := least(p_before_created_at, v_until);
    v_before_job_id text :=
        CASE WHEN p_before_created_at < v_until THEN p_before_job_id ELSE '' END;
    v_end bigint := p_offset::bigint + p_limit;
    v_labels text[] := '{NULL}';  -- one scan of the prefix, or one for each label
    v_last_job_id text := p_job_id_prefix || '~';  -- follows the characters of a job_id
BEGIN
    PERFORM jobs.set_read_time(jobs.clock_time());

    -- Another statement, because each branch of the one below costs all calls.
    IF v_filter IN ('label', 'prefix') THEN
        IF v_filter = 'label' THEN
            v_labels := jobs.rarest_labels(p_tenant_id, p_selector);
        END IF;
        RETURN QUERY
        SELECT newest.*
        FROM unnest(v_labels) AS scan (label)
        CROSS JOIN LATERAL (
            SELECT s.*
            FROM (
                -- Ordered here, because the planner does not know outside that the index delivers the
                -- order for one label.
                (SELECT l.created_at, l.job_id
                FROM jobs.job_labels l
                WHERE l.tenant_id = p_tenant_id AND l.label = scan.label
                  AND l.created_at >= v_from
                  AND (l.created_at, l.job_id) < (v_before_created_at, v_before_job_id)
                ORDER BY l.created_at DESC, l.job_id DESC)
                UNION ALL
                -- No index has these jobs in the order of the page.
                (SELECT j.created_at, j.job_id
                FROM jobs.jobs j
                WHERE scan.label IS NULL AND j.tenant_id = p_tenant_id
                  AND j.job_id >= p_job_id_prefix AND j.job_id < v_last_job_id
                  AND j.created_at >= v_from
                  AND (j.created_at, j.job_id) < (v_before_created_at, v_before_job_id)
                ORDER BY j.created_at DESC, j.job_id DESC)
            ) found
            CROSS JOIN LATERAL (
                SELECT s.*
                FROM jobs.job_states s
                WHERE s.tenant_id = p_tenant_id AND s.job_id = found.job_id
                  AND (p_document_type IS NULL OR s.document_type = p_document_type)
                  AND (p_created_by IS NULL OR s.created_by = p_created_by)
                  AND (p_target_all IS NULL OR s.target_all = p_target_all)
                  AND (p_job_id_prefix IS NULL OR starts_with(s.job_id, p_job_id_prefix))
                  AND (p_selector IS NULL OR jobs.matches_selector(s.labels, p_selector))
                  AND (p_statuses IS NULL OR s.status = ANY (p_statuses))
                OFFSET 0
            ) s
            ORDER BY found.created_at DESC, found.job_id DESC
            LIMIT v_end
        ) newest
        ORDER BY newest.created_at DESC, newest.job_id DESC
        LIMIT p_limit OFFSET p_offset;
        RETURN;
    END IF;

    -- Each scan reads the newest jobs of one status from one branch of the UNION ALL; is_read repeats
    -- the predicate of its index. The planner copies the conditions around the UNION ALL to each branch. It must
    -- see j.value = scan.value there: in a branch, it would not know that the index delivers the order.
    -- scan.value is a column, because the planner removes branches that contradict a constant, and Citus
    -- then does not see their tenant_id.
    RETURN QUERY
    SELECT s.*
    FROM (
        SELECT newest.created_at, newest.job_id
        FROM jobs.job_scans(v_filter, v_value, p_statuses) scan
        CROSS JOIN LATERAL (
            SELECT j.created_at, j.job_id
            FROM (
                -- A job that has expired opens no stage.
                SELECT j.*, scan.value, scan.filter = 'awaiting_approval'
                    AND (j.awaiting_approval OR j.start_approval = '{}')
                    AND j.status = 'IN_PROGRESS' AND NOT jobs.is_expired_at(j.expires_at, jobs.now())
                    AS is_read
                FROM jobs.jobs j
                UNION ALL
                SELECT j.*, j.target_device_id, scan.filter = 'target_device' FROM jobs.jobs j
                UNION ALL
                SELECT j.*, j.target_group_id, scan.filter = 'target_group' FROM jobs.jobs j
                UNION ALL
                SELECT j.*, j.created_by, scan.filter = 'created_by' FROM jobs.jobs j
                UNION ALL
                SELECT j.*, j.document_type, scan.filter = 'document_type' FROM jobs.jobs j
                UNION ALL
                SELECT j.*, scan.value, scan.filter = 'target_all' AND j.target_all FROM jobs.jobs j
                UNION ALL
                SELECT j.*, scan.value, scan.filter = 'none' AND j.created_at > '-infinity' FROM jobs.jobs j
                UNION ALL
                -- No index has these jobs in the order of the page.
                (SELECT j.*, scan.value, true
                FROM jobs.jobs j
                WHERE scan.filter = 'expired' AND j.status = 'IN_PROGRESS'
                  AND jobs.is_expired_at(j.expires_at, jobs.now())
                ORDER BY j.created_at DESC, j.job_id DESC)
                UNION ALL
                (SELECT j.*, scan.value, true
                FROM jobs.jobs j
                WHERE scan.filter = 'scheduled' AND j.start_at > jobs.now()
                  AND NOT jobs.is_expired_at(j.expires_at, jobs.now())
                ORDER BY j.created_at DESC, j.job_id DESC)
            ) j
            WHERE j.is_read AND j.value = scan.value AND j.tenant_id = p_tenant_id
              AND j.deleted_at IS NULL
              AND CASE WHEN j.completed_at IS NOT NULL THEN 1
                       WHEN j.canceled_at IS NOT NULL THEN 2 ELSE 0 END = scan.number
              AND j.created_at >= v_from
              AND (j.created_at, j.job_id) < (v_before_created_at, v_before_job_id)
              AND (p_document_type IS NULL OR j.document_type = p_document_type)
              AND (p_created_by IS NULL OR j.created_by = p_created_by)
              AND (p_target_device_id IS NULL OR j.target_device_id = p_target_device_id)
              AND (p_target_group_id IS NULL OR j.target_group_id = p_target_group_id)
              AND (p_target_all IS NULL OR j.target_all = p_target_all)
              AND (p_job_id_prefix IS NULL OR starts_with(j.job_id, p_job_id_prefix))
              AND (p_selector IS NULL OR jobs.matches_selector(j.labels, p_selector))
              AND (p_statuses IS NULL OR jobs.job_status_with_pause_at(
                      j.status, j.expires_at,
                      (SELECT p.in_progress FROM jobs.job_progress p
                       WHERE p.tenant_id = p_tenant_id AND p.job_id = j.job_id),
                      j.paused_at, j.start_at IS NOT NULL AND j.start_at > jobs.read_time(),
                      jobs.now()
                  ) = ANY (p_statuses))
            ORDER BY j.created_at DESC, j.job_id DESC
            LIMIT v_end
        ) newest
        ORDER BY newest.created_at DESC, newest.job_id DESC
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
