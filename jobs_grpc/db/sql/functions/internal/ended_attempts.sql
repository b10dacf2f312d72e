-- depends on: update_outcome
-- Returns the attempt that each report ended, by execution_change.n. NULL: the report ended no attempt, or that
-- attempt is still the current one, because the retry policy has not queued the next. A repeated report gets
-- the same attempt. The caller holds the job locks and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.ended_attempts(
    p_tenant_id text,
    p_changes jobs.execution_change[],
    p_execution_numbers integer[]  -- as in update_executions
) RETURNS jobs.execution_attempts[]
LANGUAGE plpgsql
AS $$
DECLARE
    v_attempts jobs.execution_attempts[] := '{}';
    v_ended record;
BEGIN
    FOR v_ended IN
        SELECT c.n, a.attempt
        FROM unnest(p_changes) c
        CROSS JOIN LATERAL (
            SELECT j.retry_policy
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = c.job_id AND j.retry_policy IS NOT NULL
            OFFSET 0
        ) j
        CROSS JOIN LATERAL (
            SELECT e.execution_number, e.started_at
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = c.job_id AND e.device_id = c.device_id
            OFFSET 0
        ) e
        CROSS JOIN LATERAL (
            SELECT a AS attempt, a.execution_number, a.status, a.status_details, a.failure_code, a.version
            FROM jobs.execution_attempts a
            WHERE a.tenant_id = p_tenant_id AND a.job_id = c.job_id AND a.device_id = c.device_id
              AND a.execution_number = CASE
                  WHEN c.outcome = 'APPLIED'
                      THEN CASE WHEN c.not_before IS NOT NULL THEN c.execution_number END
                  WHEN p_execution_numbers[c.n] IS NOT NULL THEN p_execution_numbers[c.n]
                  -- Until the next attempt starts, a report without a number is about the one before.
                  WHEN e.started_at IS NULL THEN e.execution_number - 1
              END
            OFFSET 0
        ) a
        WHERE c.new_status IN ('FAILED', 'REJECTED')
          AND (c.outcome = 'APPLIED'
               OR c.outcome = 'EXECUTION_CHANGED' AND jobs.update_outcome(
                   a.status, a.status_details, a.failure_code, a.execution_number, a.version,
                   a.failure_code IS NULL, false, false, false, c.new_status, c.status_details,
                   c.failure_code, NULL, NULL
               ) = 'REPEATED')
    LOOP
        v_attempts[v_ended.n] := v_ended.attempt;
    END LOOP;
    RETURN v_attempts;
END $$;
