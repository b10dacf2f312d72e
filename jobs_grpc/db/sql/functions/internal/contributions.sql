-- Returns two rows for each change whose outcome is APPLIED: what its executions contributed to the stored
-- counts before the change, with a negative number of executions, and what they contribute after it. A count
-- changes by the sum of the rows that match its condition. This is the definition of each count, as in recount:
-- see docs/counts.md.
--
-- PostgreSQL inlines this function, so a query computes only the columns that it reads. OFFSET 0: the planner
-- would otherwise copy each expression to every place that uses its value, as in decide_batch.
CREATE OR REPLACE FUNCTION jobs.contributions(
    p_changes jobs.execution_change[],
    p_now timestamptz  -- the time of the changes
) RETURNS TABLE (
    job_id text,
    stage smallint,
    executions integer,                   -- how many; below 0: before the change
    status jobs.execution_status,         -- as stored
    failed_status jobs.execution_status,  -- this and the next two: of the failure that counts
    failed_code text,
    failed_at timestamptz,                -- NULL: no failure counts
    is_retrying boolean,                  -- pending after a failure
    was_retried boolean                   -- the device has needed a retry, see job_executions.retries
)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- Not a join with VALUES, which sets its expressions up again for each change.
    SELECT c.job_id, c.stage, c.executions * side.sign,
           CASE WHEN side.sign < 0 THEN c.stored_status
                WHEN c.not_before IS NULL THEN c.new_status
                ELSE 'QUEUED' END,
           -- The failure that counts after the change: that of this attempt if it failed by itself, none after
           -- a success or RetryExecutions (new_status is QUEUED), otherwise the earlier one.
           CASE WHEN side.sign < 0 THEN c.failed_status
                WHEN c.failure_code IS NOT NULL THEN c.new_status
                WHEN c.new_status NOT IN ('SUCCEEDED', 'QUEUED') THEN c.failed_status END,
           CASE WHEN side.sign < 0 THEN c.failed_code
                WHEN c.failure_code IS NOT NULL THEN c.failure_code
                WHEN c.new_status NOT IN ('SUCCEEDED', 'QUEUED') THEN c.failed_code END,
           CASE WHEN side.sign < 0 THEN c.failed_at
                WHEN c.failure_code IS NOT NULL THEN p_now
                WHEN c.new_status NOT IN ('SUCCEEDED', 'QUEUED') THEN c.failed_at END,
           CASE WHEN side.sign < 0
                    THEN c.failed_at IS NOT NULL AND c.stored_status IN ('QUEUED', 'IN_PROGRESS')
                ELSE c.not_before IS NOT NULL OR c.failed_at IS NOT NULL AND c.new_status = 'IN_PROGRESS' END,
           CASE WHEN side.sign < 0 THEN c.retries > 0
                ELSE c.new_status <> 'QUEUED' AND (c.retries > 0 OR c.needs_retry) END
    FROM unnest(p_changes) c
    CROSS JOIN unnest('{-1, 1}'::integer[]) AS side (sign)
    WHERE c.outcome = 'APPLIED'
    OFFSET 0;
END;
