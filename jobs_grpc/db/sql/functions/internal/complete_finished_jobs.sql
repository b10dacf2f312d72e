-- Completes those of the jobs that have no pending execution: none is IN_PROGRESS, and either none is QUEUED
-- and no device can join, or the job has expired. The caller holds the job locks, has just changed an execution
-- of each job, and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.complete_finished_jobs(
    p_tenant_id text,
    p_job_ids text[],
    p_now timestamptz,
    p_user_id text DEFAULT NULL  -- whose call has finished the executions; NULL: unknown, or none
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_job record;
BEGIN
    -- One lookup and one update per job. For one update with an array of ids, PostgreSQL 15 may
    -- read all jobs of the tenant.
    FOR v_job IN
        SELECT j.job_id, p.queued = 0 AS finalized
        FROM unnest(p_job_ids) AS u (job_id)
        CROSS JOIN LATERAL (
            SELECT p.queued
            FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = u.job_id AND p.in_progress = 0
            OFFSET 0
        ) p
        CROSS JOIN LATERAL (
            SELECT j.job_id, j.status, j.expires_at, j.is_continuous
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = u.job_id
            OFFSET 0
        ) j
        WHERE j.status = 'IN_PROGRESS'
          AND (p.queued = 0 AND NOT j.is_continuous OR jobs.is_expired_at(j.expires_at, p_now))
    LOOP
        UPDATE jobs.jobs j
        SET status = 'COMPLETED', completed_at = p_now, updated_at = p_now,
            finalized = v_job.finalized, awaiting_approval = false
        WHERE j.tenant_id = p_tenant_id AND j.job_id = v_job.job_id;
        PERFORM jobs.add_event(p_tenant_id, v_job.job_id, p_now, 'job.completed', p_user_id);
    END LOOP;
END $$;
