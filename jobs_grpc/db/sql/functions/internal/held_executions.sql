-- depends on: finished_while_held
-- Returns the number of HELD executions of each stage of a job, in the order of the stages. p_released
-- executions of the job are released, and the job is neither canceled nor expired. The caller has set
-- the tenant.
CREATE OR REPLACE FUNCTION jobs.held_executions(
    p_tenant_id text, p_job_id text, p_released integer
) RETURNS integer[]
LANGUAGE plpgsql STABLE
-- The primary key delivers the order.
-- settings: page
AS $$
BEGIN
    RETURN (
        SELECT array_agg(
            CASE
                WHEN s.last_rank <= p_released OR s.queued = 0 THEN 0
                -- The stage has no released executions: all that are not finished are HELD.
                WHEN s.first_rank > p_released THEN s.queued
                -- least(): the clock of a new primary can be behind that of the old one, so
                -- executions beyond p_released can have started.
                ELSE least(
                    s.queued,
                    s.last_rank - p_released
                    - jobs.finished_while_held(p_tenant_id, p_job_id, p_released, s.last_rank)
                )
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
