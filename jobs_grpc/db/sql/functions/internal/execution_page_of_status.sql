-- Returns a page of the executions that readers see in p_status, like execution_page. The caller
-- has set the tenant.
--
-- Executions that are stored as FAILED, TIMED_OUT or REJECTED have an index for each status. For
-- other statuses, and while a cancel or an expiry is not finalized, the function also reads the
-- executions that it skips, until it has found as many as the counts say.
--
-- Raises JOB_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.execution_page_of_status(
    p_tenant_id text, p_job_id text, p_status text, p_after_device_id text, p_limit integer
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
    stages smallint[]
)
-- STABLE, so that the counts and the page have the snapshot of the caller's statement.
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
DECLARE
    v_seen integer;    -- executions that readers see in p_status
    v_stored integer;  -- those that are stored in it, if it has an index
BEGIN
    SELECT
        CASE WHEN p_status = 'HELD' THEN s.held
             WHEN p_status = 'QUEUED' THEN s.queued
             WHEN p_status = 'IN_PROGRESS' THEN s.in_progress
             WHEN p_status = 'SUCCEEDED' THEN s.succeeded
             WHEN p_status = 'FAILED' THEN s.failed
             WHEN p_status = 'TIMED_OUT' THEN s.timed_out
             WHEN p_status = 'REJECTED' THEN s.rejected END,
        CASE WHEN p_status = 'FAILED' THEN p.failed
             WHEN p_status = 'TIMED_OUT' THEN p.timed_out
             WHEN p_status = 'REJECTED' THEN p.rejected END
    INTO v_seen, v_stored
    FROM jobs.job_states s
    JOIN jobs.job_progress p ON p.tenant_id = s.tenant_id AND p.job_id = s.job_id
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error('JOB_NOT_FOUND');
    END IF;

    IF v_seen IS DISTINCT FROM v_stored THEN
        RETURN QUERY
        SELECT e.*
        FROM jobs.execution_page(
            p_tenant_id, p_job_id, p_status, p_after_device_id, least(p_limit, v_seen)
        ) e;
        RETURN;
    END IF;

    -- Only one branch runs. The statuses are constants, because a parameter does not match the
    -- predicate of an index.
    RETURN QUERY
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
            (
                SELECT s.*
                FROM jobs.execution_states s
                WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
                  AND p_status = 'FAILED' AND s.stored_status = 'FAILED'
                  AND s.device_id > p_after_device_id
                ORDER BY s.device_id
                LIMIT p_limit
            )
            UNION ALL
            (
                SELECT s.*
                FROM jobs.execution_states s
                WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
                  AND p_status = 'TIMED_OUT' AND s.stored_status = 'TIMED_OUT'
                  AND s.device_id > p_after_device_id
                ORDER BY s.device_id
                LIMIT p_limit
            )
            UNION ALL
            (
                SELECT s.*
                FROM jobs.execution_states s
                WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
                  AND p_status = 'REJECTED' AND s.stored_status = 'REJECTED'
                  AND s.device_id > p_after_device_id
                ORDER BY s.device_id
                LIMIT p_limit
            )
        ) page
    ) e;
END $$;
