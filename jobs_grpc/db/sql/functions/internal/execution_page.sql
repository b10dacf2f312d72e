-- Returns a page of a job's executions as one row with an array per column, in the order of
-- device_id. It is cheaper to send and decode than thousands of rows. The arrays are NULL if the
-- page is empty. The caller has set the tenant.
--
-- Executions after the first 8 MiB of details, as text, have neither a status nor details. A response
-- has no room for them: it has at most 4 MiB.
CREATE OR REPLACE FUNCTION jobs.execution_page(
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
              AND s.device_id > p_after_device_id
              AND (p_status IS NULL OR s.status = p_status)
            ORDER BY s.device_id
            LIMIT p_limit
        ) page
    ) e;
END $$;
