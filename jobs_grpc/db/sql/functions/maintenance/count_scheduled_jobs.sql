-- Counts the jobs that are SCHEDULED, at most p_limit. The caller must see the rows of all tenants.
CREATE OR REPLACE FUNCTION jobs.count_scheduled_jobs(p_limit integer) RETURNS bigint
LANGUAGE plpgsql STABLE
-- Only the index jobs_of_all_tenants_by_start_at delivers the order.
-- settings: page
AS $$
BEGIN
    RETURN (
        SELECT count(*)
        FROM (
            SELECT j.job_id
            FROM jobs.jobs j
            WHERE j.start_at > jobs.now() AND j.status = 'IN_PROGRESS' AND j.deleted_at IS NULL
              AND j.paused_at IS NULL
            ORDER BY j.start_at
            LIMIT p_limit
        ) scheduled
    );
END $$;
