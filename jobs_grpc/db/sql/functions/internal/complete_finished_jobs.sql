-- Completes those of the jobs that have no pending execution: none is IN_PROGRESS, and either none
-- is QUEUED or the job has expired. The caller holds the job locks, has just changed an execution
-- of each job, and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.complete_finished_jobs(
    p_tenant_id text, p_job_ids text[], p_now timestamptz
) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE jobs.jobs j
    SET status = 'COMPLETED', completed_at = p_now, updated_at = p_now,
        finalized = (p.queued = 0)
    FROM jobs.job_progress p
    WHERE j.tenant_id = p_tenant_id AND j.job_id = ANY (p_job_ids) AND j.status = 'IN_PROGRESS'
      AND p.tenant_id = j.tenant_id AND p.job_id = j.job_id
      AND p.in_progress = 0 AND (p.queued = 0 OR j.expires_at <= p_now);
END $$;
