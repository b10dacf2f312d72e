-- Limits the starts of a batch to the max_in_progress of their jobs. Returns the changes: starts beyond it have
-- the outcome JOB_FULL, or AGAIN if the execution must be the next one of its device. The caller has taken the job
-- locks and has set the tenant; its planner settings apply here, too.
--
-- A separate function, so that only batches with a start of a job with a limit pay for it.
CREATE OR REPLACE FUNCTION jobs.limit_starts(
    p_tenant_id text,
    p_changes jobs.execution_change[],
    p_must_be_next boolean[]  -- of update_executions
) RETURNS jobs.execution_change[]
LANGUAGE plpgsql
AS $$
DECLARE
    v_start record;
BEGIN
    FOR v_start IN
        SELECT start.n, start.index
        FROM (
            SELECT c.n, c.ordinality AS index, c.job_id,
                   row_number() OVER (PARTITION BY c.job_id ORDER BY c.n) AS number
            FROM unnest(p_changes) WITH ORDINALITY AS c
            WHERE c.outcome = 'APPLIED' AND c.stored_status = 'QUEUED'
              AND c.new_status = 'IN_PROGRESS'
        ) start
        CROSS JOIN LATERAL (
            SELECT j.max_in_progress
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = start.job_id
            OFFSET 0
        ) j
        CROSS JOIN LATERAL (
            SELECT p.in_progress
            FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = start.job_id
            OFFSET 0
        ) p
        WHERE start.number > j.max_in_progress - p.in_progress
    LOOP
        p_changes[v_start.index].outcome :=
            CASE WHEN p_must_be_next[v_start.n] THEN 'AGAIN' ELSE 'JOB_FULL' END;
    END LOOP;
    RETURN p_changes;
END $$;
