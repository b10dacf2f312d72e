-- Moves executions from one stored status to another in the counts of their stages. The arrays are
-- parallel. The caller holds the job locks, has set the tenant, and changes the counts of the jobs
-- itself.
CREATE OR REPLACE FUNCTION jobs.count_stage_changes(
    p_tenant_id text,
    p_job_ids text[],
    p_stages smallint[],  -- NULL elements are ignored: no rollout
    p_old_statuses jobs.execution_status[],
    p_new_statuses jobs.execution_status[],
    p_executions integer[] DEFAULT NULL  -- how many; NULL: one for each element
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
BEGIN
    -- One lookup per stage, then an update by ctid, as in update_executions.
    UPDATE jobs.job_stages s
    SET queued = s.queued + c.queued,
        in_progress = s.in_progress + c.in_progress,
        succeeded = s.succeeded + c.succeeded,
        failed = s.failed + c.failed,
        timed_out = s.timed_out + c.timed_out,
        rejected = s.rejected + c.rejected
    FROM (
        SELECT changes.*, stage.row_id
        FROM (
            SELECT u.job_id, u.stage,
                   sum(n.executions * ((u.new_status = 'QUEUED')::integer
                                       - (u.old_status = 'QUEUED')::integer)) AS queued,
                   sum(n.executions * ((u.new_status = 'IN_PROGRESS')::integer
                                       - (u.old_status = 'IN_PROGRESS')::integer)) AS in_progress,
                   sum(n.executions * ((u.new_status = 'SUCCEEDED')::integer
                                       - (u.old_status = 'SUCCEEDED')::integer)) AS succeeded,
                   sum(n.executions * ((u.new_status = 'FAILED')::integer
                                       - (u.old_status = 'FAILED')::integer)) AS failed,
                   sum(n.executions * ((u.new_status = 'TIMED_OUT')::integer
                                       - (u.old_status = 'TIMED_OUT')::integer)) AS timed_out,
                   sum(n.executions * ((u.new_status = 'REJECTED')::integer
                                       - (u.old_status = 'REJECTED')::integer)) AS rejected
            FROM unnest(p_job_ids, p_stages, p_old_statuses, p_new_statuses, p_executions)
                AS u (job_id, stage, old_status, new_status, executions)
            CROSS JOIN LATERAL (SELECT coalesce(u.executions, 1) AS executions) n
            WHERE u.stage IS NOT NULL AND u.old_status <> u.new_status
            GROUP BY u.job_id, u.stage
        ) changes
        CROSS JOIN LATERAL (
            SELECT s.ctid AS row_id
            FROM jobs.job_stages s
            WHERE s.tenant_id = p_tenant_id AND s.job_id = changes.job_id
              AND s.stage = changes.stage
            OFFSET 0
        ) stage
    ) c
    WHERE s.tenant_id = p_tenant_id AND s.ctid = c.row_id;
END $$;
