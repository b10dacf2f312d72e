-- depends on: update_outcome
-- Returns the attempt that each report ended, by decided_update.n. NULL: the report ended no attempt, or that
-- attempt is still the current one, because the retry policy has not queued the next. A repeated report gets
-- the same attempt. The caller holds the job locks and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.ended_attempts(
    p_tenant_id text,
    p_updates jobs.decided_update[],
    p_execution_numbers integer[]  -- as in update_executions
) RETURNS jobs.execution_attempts[]
LANGUAGE plpgsql
AS $$
DECLARE
    v_attempts jobs.execution_attempts[] := '{}';
    v_ended record;
BEGIN
    FOR v_ended IN
        SELECT u.n, a.attempt
        FROM unnest(p_updates) u
        CROSS JOIN LATERAL (
            SELECT j.retry_policy
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = u.job_id AND j.retry_policy IS NOT NULL
            OFFSET 0
        ) j
        CROSS JOIN LATERAL (
            SELECT e.execution_number, e.status, e.started_at
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = u.job_id AND e.device_id = u.device_id
            OFFSET 0
        ) e
        CROSS JOIN LATERAL (
            SELECT a AS attempt, a.execution_number, a.status, a.status_details, a.failure_code, a.version
            FROM jobs.execution_attempts a
            WHERE a.tenant_id = p_tenant_id AND a.job_id = u.job_id AND a.device_id = u.device_id
              AND a.execution_number = CASE
                  WHEN u.outcome = 'APPLIED'
                      THEN CASE WHEN e.status = 'QUEUED' THEN e.execution_number - 1 END
                  WHEN p_execution_numbers[u.n] IS NOT NULL THEN p_execution_numbers[u.n]
                  -- Until the next attempt starts, a report without a number is about the one before.
                  WHEN e.started_at IS NULL THEN e.execution_number - 1
              END
            OFFSET 0
        ) a
        WHERE u.new_status IN ('FAILED', 'REJECTED')
          AND (u.outcome = 'APPLIED'
               OR u.outcome = 'EXECUTION_CHANGED' AND jobs.update_outcome(
                   a.status, a.status_details, a.failure_code, a.execution_number, a.version,
                   a.failure_code IS NULL, false, false, false, u.new_status, u.status_details,
                   u.failure_code, NULL, NULL
               ) = 'REPEATED')
    LOOP
        v_attempts[v_ended.n] := v_ended.attempt;
    END LOOP;
    RETURN v_attempts;
END $$;
