-- Returns the time to store for attempts that end now in these jobs: p_now, or, if the clock was set back, the
-- microsecond after the last restart of their failure criteria. So an attempt that ends after a restart always
-- has a later time than the restart, and the criterion counts it. The caller holds the job locks and has set
-- the tenant.
CREATE OR REPLACE FUNCTION jobs.end_time(
    p_tenant_id text, p_job_ids text[], p_now timestamptz
) RETURNS timestamptz
LANGUAGE plpgsql
AS $$
DECLARE
    v_counts_since timestamptz;  -- the last restart; NULL: the jobs have no failure criteria
BEGIN
    SELECT max(c.counts_since) INTO v_counts_since
    FROM unnest(p_job_ids) AS u (job_id)
    CROSS JOIN LATERAL (
        SELECT c.counts_since
        FROM jobs.job_failure_criteria c
        WHERE c.tenant_id = p_tenant_id AND c.job_id = u.job_id
        OFFSET 0
    ) c;
    RETURN greatest(p_now, v_counts_since + interval '1 microsecond');
END $$;
