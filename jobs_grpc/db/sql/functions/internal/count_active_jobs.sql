-- Counts the tenant's jobs other than p_job_id that readers see as IN_PROGRESS. Stops at p_max,
-- which limits the rows that it reads. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.count_active_jobs(
    p_tenant_id text, p_job_id text, p_max integer
) RETURNS integer
-- VOLATILE, so that each call sees the jobs that were committed before it.
LANGUAGE plpgsql VOLATILE
-- Only the index jobs_in_progress_by_expires_at delivers the order. The count needs no order; it is
-- there to select this index.
-- settings: page
AS $$
BEGIN
    RETURN (
        SELECT count(*)::integer
        FROM (
            (
                SELECT
                FROM jobs.jobs j
                WHERE j.tenant_id = p_tenant_id AND j.job_id <> p_job_id
                  AND j.status = 'IN_PROGRESS' AND j.deleted_at IS NULL
                  AND NOT jobs.is_expired_at(j.expires_at, jobs.now())
                ORDER BY j.expires_at
                LIMIT p_max
            )
            UNION ALL
            (
                SELECT
                FROM jobs.jobs j
                WHERE j.tenant_id = p_tenant_id AND j.job_id <> p_job_id
                  AND j.status = 'IN_PROGRESS' AND j.deleted_at IS NULL
                  AND jobs.is_expired_at(j.expires_at, jobs.now())
                  AND EXISTS (
                      SELECT FROM jobs.job_progress p
                      WHERE p.tenant_id = p_tenant_id AND p.job_id = j.job_id AND p.in_progress > 0
                      OFFSET 0
                  )
                ORDER BY j.expires_at
                LIMIT p_max
            )
            LIMIT p_max
        ) active
    );
END $$;
