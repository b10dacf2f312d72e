-- Returns a page of one device's executions across jobs, newest first: those before
-- (p_before_queued_at, p_before_job_id).
--
-- Executions after the first 8 MiB of details, as text, have neither a status nor details; see
-- execution_page.
--
-- Raises DEVICE_NOT_FOUND without p_job_id, if the first page is empty and the tenant has no such
-- device.
CREATE OR REPLACE FUNCTION jobs.list_device_executions(
    p_tenant_id text, p_device_id text,
    p_job_id text,                   -- NULL: all
    p_status text,                   -- NULL: all
    p_before_queued_at timestamptz,  -- NULL: from the newest
    p_before_job_id text,
    p_limit integer,
    p_failure_code text DEFAULT NULL,  -- NULL: all; '': failures without a code
    p_end_causes text[] DEFAULT NULL  -- NULL: all
) RETURNS TABLE (
    job_id text,
    /* for each FIELD: FIELD TYPE */
)
LANGUAGE plpgsql STABLE  -- see set_read_time
-- Only the index job_executions_newest_first delivers the order.
-- settings: tenant, page
AS $$
#variable_conflict use_column
DECLARE
    v_before_queued_at timestamptz := coalesce(p_before_queued_at, 'infinity');
    v_before_job_id text := coalesce(p_before_job_id, '');
BEGIN
    PERFORM jobs.set_read_time(jobs.clock_time());

    IF p_job_id IS NOT NULL THEN
        RETURN QUERY
        SELECT s.job_id, /* for each FIELD: s.FIELD */
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.device_id = p_device_id
          AND (p_status IS NULL OR s.status = p_status)
          AND (p_failure_code IS NULL OR s.failure_code = p_failure_code)
          AND (p_end_causes IS NULL OR s.end_cause = ANY (p_end_causes))
          AND (s.queued_at, s.job_id) < (v_before_queued_at, v_before_job_id)
        LIMIT p_limit;
        RETURN;
    END IF;

    RETURN QUERY
    SELECT
        s.job_id, s.device_id,
        CASE WHEN s.bytes_before < 8388608 THEN s.status END,
        CASE WHEN s.bytes_before < 8388608 THEN s.status_details END,
        /* for each other FIELD: s.FIELD */
    FROM (
        SELECT
            s.*,
            coalesce(sum(octet_length(s.status_details::text))
                OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before
        FROM (
            SELECT e.job_id, e.queued_at
            FROM jobs.job_executions e
            CROSS JOIN LATERAL (
                SELECT j.canceled_at, j.force_canceled, j.expires_at, j.deleted_at,
                       jobs.released_count_at(j.release, jobs.read_time()) AS released
                FROM jobs.jobs_with_release j
                WHERE j.tenant_id = p_tenant_id AND j.job_id = e.job_id
                OFFSET 0
            ) j
            CROSS JOIN LATERAL (
                SELECT jobs.execution_status_at(
                    e.status, j.canceled_at, j.force_canceled, j.expires_at, jobs.now()
                ) AS status
            ) derived
            WHERE e.tenant_id = p_tenant_id AND e.device_id = p_device_id
              AND e.queued_at > '-infinity'  -- the predicate of the index
              AND (e.queued_at, e.job_id) < (v_before_queued_at, v_before_job_id)
              AND j.deleted_at IS NULL
              AND (p_failure_code IS NULL OR e.failure_code = p_failure_code)
              AND (p_end_causes IS NULL OR jobs.end_cause(  -- as in execution_states
                      derived.status, e.failure_code, e.end_cause,
                      derived.status <> e.status OR e.last_updated_at = j.canceled_at
                  ) = ANY (p_end_causes))
              AND (p_status IS NULL OR p_status = CASE
                      WHEN derived.status = 'QUEUED' AND jobs.is_held(e.rank, j.released)
                          THEN 'HELD'
                      ELSE derived.status::text
                  END)
            ORDER BY e.queued_at DESC, e.job_id DESC
            LIMIT p_limit
        ) page
        CROSS JOIN LATERAL (
            SELECT s.*
            FROM jobs.execution_states s
            WHERE s.tenant_id = p_tenant_id AND s.job_id = page.job_id AND s.device_id = p_device_id
            OFFSET 0
        ) s
        ORDER BY page.queued_at DESC, page.job_id DESC
    ) s;

    IF NOT FOUND AND p_before_queued_at IS NULL THEN
        PERFORM FROM public.device_state d
        WHERE d.tenant_id = p_tenant_id AND d.device_id = p_device_id;
        IF NOT FOUND THEN
            PERFORM jobs.raise_error('DEVICE_NOT_FOUND');
        END IF;
    END IF;
END $$;
