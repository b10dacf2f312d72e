-- Returns the jobs with these ids, without executions. Omits ids that don't exist.
CREATE OR REPLACE FUNCTION jobs.get_jobs(
    p_tenant_id text, p_job_ids text[]
) RETURNS SETOF jobs.job_details
LANGUAGE plpgsql STABLE  -- see set_read_time
-- settings: tenant, lookup
AS $$
BEGIN
    PERFORM jobs.set_read_time(jobs.clock_time());

    RETURN QUERY
    SELECT s.*
    FROM (SELECT DISTINCT u.job_id FROM unnest(p_job_ids) AS u (job_id)) u
    CROSS JOIN LATERAL (
        SELECT s.*
        FROM jobs.job_details s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = u.job_id
        OFFSET 0
    ) s;
END $$;
