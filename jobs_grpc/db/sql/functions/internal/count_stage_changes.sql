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
    SET queued = s.queued + coalesce(c.queued, 0),
        in_progress = s.in_progress + coalesce(c.in_progress, 0),
        succeeded = s.succeeded + coalesce(c.succeeded, 0),
        failed = s.failed + coalesce(c.failed, 0),
        timed_out = s.timed_out + coalesce(c.timed_out, 0),
        rejected = s.rejected + coalesce(c.rejected, 0)
    FROM (
        SELECT changes.*, stage.row_id
        FROM (
            SELECT u.job_id, u.stage,
                   sum(c.executions) FILTER (WHERE c.status = 'QUEUED') AS queued,
                   sum(c.executions) FILTER (WHERE c.status = 'IN_PROGRESS') AS in_progress,
                   sum(c.executions) FILTER (WHERE c.status = 'SUCCEEDED') AS succeeded,
                   sum(c.executions) FILTER (WHERE c.status = 'FAILED') AS failed,
                   sum(c.executions) FILTER (WHERE c.status = 'TIMED_OUT') AS timed_out,
                   sum(c.executions) FILTER (WHERE c.status = 'REJECTED') AS rejected
            FROM unnest(p_job_ids, p_stages, p_old_statuses, p_new_statuses, p_executions)
                AS u (job_id, stage, old_status, new_status, executions)
            CROSS JOIN LATERAL (VALUES
                (u.new_status, coalesce(u.executions, 1)), (u.old_status, -coalesce(u.executions, 1))
            ) AS c (status, executions)
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
