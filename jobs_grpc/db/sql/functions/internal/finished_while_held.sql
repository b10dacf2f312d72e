-- Returns the number of finished executions of a job with a rank above p_released, up to p_last_rank.
-- Their devices never saw them: an operator canceled them, or the job expired and a retry did not
-- include them. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.finished_while_held(
    p_tenant_id text, p_job_id text, p_released integer, p_last_rank integer
) RETURNS integer
LANGUAGE plpgsql STABLE
-- Only the index job_executions_finished_unstarted_by_rank delivers the order.
-- settings: page
AS $$
BEGIN
    RETURN (
        SELECT count(*)
        FROM (
            SELECT
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
              AND e.rank > p_released AND e.rank <= p_last_rank
              AND e.rank IS NOT NULL AND e.started_at IS NULL
              AND e.status IN ('TIMED_OUT', 'REJECTED')
            ORDER BY e.rank
            OFFSET 0
        ) e
    );
END $$;
