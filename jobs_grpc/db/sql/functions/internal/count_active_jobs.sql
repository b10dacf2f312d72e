-- Counts the tenant's active jobs other than p_job_ids: those that readers see as IN_PROGRESS, PAUSED or
-- SCHEDULED. Stops at p_max, which limits the rows that it reads. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.count_active_jobs(
    p_tenant_id text, p_job_ids text[], p_max integer
) RETURNS integer
-- VOLATILE, so that each call sees the jobs that were committed before it.
LANGUAGE plpgsql VOLATILE
-- Only the index jobs_in_progress_by_expires_at delivers the order. Jobs that have expired come last,
-- because only they need a second lookup.
-- settings: page
AS $$
BEGIN
    RETURN (
        SELECT count(*)::integer
        FROM (
            SELECT
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id <> ALL (p_job_ids)
              AND j.status = 'IN_PROGRESS' AND j.deleted_at IS NULL
              AND jobs.job_status_at(
                      j.status, j.expires_at,
                      (SELECT p.in_progress FROM jobs.job_progress p
                       WHERE p.tenant_id = p_tenant_id AND p.job_id = j.job_id),
                      jobs.now()
                  ) = 'IN_PROGRESS'
            ORDER BY j.expires_at DESC
            LIMIT p_max
        ) active
    );
END $$;
