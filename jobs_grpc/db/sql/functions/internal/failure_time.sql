-- Returns the time of failures in these jobs: p_now, or a time after the last restart of their failure
-- criteria, if the clock was set back since. So a criterion counts each failure that happens after its restart.
-- The caller holds the job locks and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.failure_time(
    p_tenant_id text, p_job_ids text[], p_now timestamptz
) RETURNS timestamptz
LANGUAGE plpgsql
AS $$
DECLARE
    v_counts_since timestamptz;
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
