-- Returns the number of HELD executions of each stage of a job, in the order of the stages. p_released
-- executions of the job are released, and the job is neither canceled nor expired. The caller has set
-- the tenant.
CREATE OR REPLACE FUNCTION jobs.held_executions(
    p_tenant_id text, p_job_id text, p_released integer
) RETURNS integer[]
LANGUAGE plpgsql STABLE
-- The primary key delivers the order of the stages, and only the index
-- job_executions_finished_unstarted_by_rank that of the executions.
-- settings: page
AS $$
BEGIN
    RETURN (
        SELECT array_agg(
            CASE
                WHEN s.last_rank <= p_released OR s.queued = 0 THEN 0
                -- The stage has no released executions: all that are not finished are HELD.
                WHEN s.first_rank > p_released THEN s.queued
                -- Minus the executions whose devices never saw them: an operator canceled them, or the
                -- job expired and a retry did not include them.
                -- least(): the clock of a new primary can be behind that of the old one, so
                -- executions beyond p_released can have started.
                ELSE least(s.queued, s.last_rank - p_released - (
                    SELECT count(*)::integer
                    FROM (
                        SELECT
                        FROM jobs.job_executions e
                        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
                          AND e.rank > p_released AND e.rank <= s.last_rank
                          AND e.rank IS NOT NULL AND e.started_at IS NULL
                          AND e.status IN ('TIMED_OUT', 'REJECTED')
                        ORDER BY e.rank
                        OFFSET 0
                    ) e
                ))
            END
        )
        FROM (
            SELECT s.first_rank, s.last_rank, s.queued
            FROM jobs.job_stages s
            WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
            ORDER BY s.stage
            OFFSET 0
        ) s
    );
END $$;
