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
-- settings: page
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
            array_agg(e.execution_number), array_agg(e.version), array_agg(e.queued_at),
            array_agg(e.started_at), array_agg(e.last_updated_at),
            CASE WHEN max(e.rare_values) > 0 THEN array_agg(e.times_out_at) END,
            CASE WHEN max(e.rare_values) > 0 THEN array_agg(e.failure_code) END,
            CASE WHEN max(e.rare_values) > 0 THEN array_agg(e.stage) END,
            CASE WHEN max(e.rare_values) > 0 THEN array_agg(e.end_cause) END,
            CASE WHEN max(e.rare_values) > 0 THEN array_agg(e.not_before) END,
            CASE WHEN max(e.rare_values) > 0 THEN array_agg(e.time_zone) END,
            CASE WHEN max(e.rare_values) > 0 THEN array_agg(e.reported_by) END
        FROM (
            SELECT
                page.*,
                num_nonnulls(page.times_out_at, page.failure_code, page.stage, page.end_cause,
                             page.not_before, page.time_zone, page.reported_by) AS rare_values,
                coalesce(sum(octet_length(page.status_details::text))
                    OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before
            FROM (
                SELECT e.device_id, e.status, e.status_details, e.execution_number, e.version,
                       e.queued_at, e.started_at, e.last_updated_at, e.times_out_at, e.failure_code,
                       e.stage, e.end_cause, e.not_before, e.time_zone, e.reported_by
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
