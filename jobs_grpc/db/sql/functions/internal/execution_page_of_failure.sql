-- Returns a page of a job's executions that failed with a code, like execution_page. The caller has
-- set the tenant.
CREATE OR REPLACE FUNCTION jobs.execution_page_of_failure(
    p_tenant_id text,
    p_job_id text,
    p_failure_code text,  -- '': failures without a code
    p_status text,        -- NULL: all
    p_after_device_id text,
    p_limit integer
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
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
BEGIN
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
            SELECT s.*
            FROM jobs.execution_states s
            WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
              -- A range of one code, because with failure_code = p_failure_code the primary key
              -- would deliver the order as well.
              AND (s.failure_code, s.device_id) > (p_failure_code, p_after_device_id)
              AND s.failure_code <= p_failure_code
              AND (p_status IS NULL OR s.status = p_status)
            ORDER BY s.failure_code, s.device_id
            LIMIT p_limit
        ) page
    ) e;
END $$;
