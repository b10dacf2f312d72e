-- Returns a page of a job's executions in the order of device_id, after p_after_device_id ('': from the
-- start).
--
-- Raises JOB_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.list_job_executions(
    p_tenant_id text,
    p_job_id text,
    p_status text,  -- NULL: all
    p_after_device_id text,
    p_limit integer,
    p_failure_code text DEFAULT NULL,  -- NULL: all; '': failures without a code
    p_stage integer DEFAULT NULL,      -- NULL: all
    p_device_id_prefix text DEFAULT '',
    p_end_causes text[] DEFAULT NULL   -- NULL: all
) RETURNS SETOF jobs.execution_page
LANGUAGE plpgsql STABLE  -- see set_read_time
-- settings: tenant, page
AS $$
BEGIN
    PERFORM jobs.set_read_time(jobs.clock_time());

    RETURN QUERY
    SELECT page.*, j.created_at
    FROM jobs.jobs j
    CROSS JOIN LATERAL (
        SELECT
            array_agg(e.device_id),
            array_agg(CASE WHEN e.bytes_before < 8388608 THEN e.status END),
            array_agg(CASE WHEN e.bytes_before < 8388608 THEN e.status_details END),
            /* for each frequent FIELD: array_agg(e.FIELD) */,
            /* for each rare FIELD: CASE WHEN max(e.rare_values) > 0 THEN array_agg(e.FIELD) END */
        FROM (
            SELECT
                e.*,
                num_nonnulls(/* for each rare FIELD: e.FIELD */) AS rare_values,
                coalesce(sum(octet_length(e.status_details::text))
                    OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before
            FROM jobs.job_executions_after(
                p_tenant_id, p_job_id, p_status, p_failure_code,
                p_end_causes, p_stage,
                p_device_id_prefix, p_after_device_id, p_limit
            ) e
        ) e
    ) page
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;

    IF NOT FOUND THEN
        PERFORM jobs.raise_error('JOB_NOT_FOUND');
    END IF;
END $$;
