-- Finds the attempts that were retried after reports of this batch, which update_executions returns instead of
-- the executions: these already show the next attempt. The index of the result is execution_change.n. NULL: the
-- report ended no attempt, or the retry policy has not queued another one. A repeated report of the failure gets
-- the same attempt. The caller holds the job locks, has set the tenant, and has written the changes.
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
               -- Does the report repeat the one that ended the attempt?
               OR c.outcome = 'EXECUTION_CHANGED' AND jobs.update_outcome(
                   a.status, a.status_details, a.failure_code, a.execution_number, a.version,
                   finished_without_report => a.failure_code IS NULL, is_held => false,
                   job_is_paused => false, is_waiting => false, reported_status => c.new_status,
                   reported_details => c.status_details, reported_failure_code => c.failure_code,
                   cancel_accepted => c.end_cause IS NOT NULL, job_is_canceled => false,
                   expected_number => NULL, expected_version => NULL
               ) = 'REPEATED')
    LOOP
        v_attempts[v_ended.n] := v_ended.attempt;
    END LOOP;
    RETURN v_attempts;
END $$;
