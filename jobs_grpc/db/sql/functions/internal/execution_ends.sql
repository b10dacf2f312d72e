-- Returns how many executions of a job finished in each bucket of time, by outcome. A bucket starts at a multiple of
-- p_bucket since 1970; p_bucket is a number of seconds.
--
-- An execution counts at the end of its current attempt. Executions that the cancel or the expiry of the job
-- ended count at that time, whether finalize_executions has written their ends or not.
CREATE OR REPLACE FUNCTION jobs.execution_ends(p_tenant_id text, p_job_id text, p_bucket interval)
RETURNS TABLE (
    bucket timestamptz,
    outcome text,  -- SUCCEEDED, FAILED, CANCELED or EXPIRED
    number bigint
)
-- One statement, because finalize_executions turns derived ends into stored ones.
LANGUAGE plpgsql STABLE
-- The executions are grouped in a hash table: the settings disable sorts.
-- settings: page, bitmap scan, no parallel query
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT e.bucket, (ARRAY['SUCCEEDED', 'FAILED', 'CANCELED', 'EXPIRED'])[e.outcome], e.number
    FROM (
        SELECT e.bucket, e.outcome, count(*) AS number
        FROM (
            SELECT date_bin(p_bucket, e.last_updated_at, 'epoch') AS bucket,
                   CASE WHEN e.status = 'SUCCEEDED' THEN 1  -- hashing a number takes less time than a text
                        WHEN e.status = 'QUEUED' OR e.status = 'IN_PROGRESS' THEN NULL
                        WHEN e.status = 'FAILED' OR e.failure_code IS NOT NULL THEN 2
                        WHEN e.status = 'REJECTED' THEN 3
                        ELSE 4 END AS outcome
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
            OFFSET 0  -- the planner then expects few groups, and not one per row: the hash table stays small
        ) e
        GROUP BY 1, 2
        OFFSET 0  -- filter after grouping, when there are fewer rows
    ) e
    WHERE e.outcome IS NOT NULL
    UNION ALL
    SELECT date_bin(p_bucket, d.ended_at, 'epoch'), d.outcome, d.number
    FROM jobs.jobs j
    JOIN jobs.job_progress p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
    CROSS JOIN LATERAL (
        SELECT jobs.queued_status_at(j.canceled_at, j.expires_at, jobs.now()) AS status
        OFFSET 0
    ) queued
    CROSS JOIN LATERAL (VALUES
        ('EXPIRED', j.expires_at, CASE WHEN queued.status = 'TIMED_OUT' THEN p.queued ELSE 0 END),
        ('CANCELED', j.canceled_at, CASE WHEN queued.status = 'REJECTED' THEN p.queued ELSE 0 END),
        ('CANCELED', j.canceled_at, CASE WHEN j.force_canceled THEN p.in_progress ELSE 0 END)
    ) d (outcome, ended_at, number)
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND d.number > 0;
END $$;
