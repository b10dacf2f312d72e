-- Returns a job, the first page of its executions, and the state of its start windows, from one snapshot.
--
-- Most of the time of a call is the setup of the expressions of its columns, evaluated or not. So the columns that
-- few jobs need are computed by one expression, or by a function that is not inlined.
--
-- Raises JOB_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.get_job(
    p_tenant_id text, p_job_id text, p_executions_limit integer
) RETURNS SETOF jobs.job_page
LANGUAGE plpgsql STABLE  -- see set_read_time
-- settings: tenant, page
AS $$
BEGIN
    PERFORM jobs.set_read_time(jobs.clock_time());

    RETURN QUERY
    SELECT e.*, s.created_at, s.*, jobs.window_state(s.start_windows, s.window_time_zone)
    FROM jobs.job_details s
    CROSS JOIN LATERAL (
        -- As in list_job_executions. A function for both would make get_job a tenth slower.
        SELECT
            array_agg(e.device_id),
            array_agg(CASE WHEN e.bytes_before < 8388608 THEN e.status END),
            array_agg(CASE WHEN e.bytes_before < 8388608 THEN e.status_details END),
            /* for each frequent FIELD: array_agg(e.FIELD) */,
            /* for each rare FIELD: CASE WHEN max(e.rare_values) > 0 THEN array_agg(e.FIELD) END */
        FROM (
            SELECT
                page.*,
                num_nonnulls(/* for each rare FIELD: page.FIELD */) AS rare_values,
                coalesce(sum(octet_length(page.status_details::text))
                    OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before
            FROM (
                SELECT /* for each FIELD: e.FIELD */
                FROM jobs.execution_states e
                WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
                ORDER BY e.device_id
                LIMIT p_executions_limit
            ) page
        ) e
    ) e
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;

    IF NOT FOUND THEN
        PERFORM jobs.raise_error('JOB_NOT_FOUND');
    END IF;
END $$;
