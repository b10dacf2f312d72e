-- Checks that fewer than 20 of the tenant's other jobs are continuous. The caller has set the tenant.
--
-- Raises TOO_MANY_CONTINUOUS_JOBS.
CREATE OR REPLACE FUNCTION jobs.check_continuous_job_limit(
    p_tenant_id text,
    p_replaced_job_id text,  -- is not counted; NULL: none
    p_is_exact boolean       -- keep this true until the transaction ends. No lock may be taken after this call.
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
BEGIN
    IF p_is_exact THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('continuous jobs of ' || p_tenant_id, 0));
    END IF;
    -- Jobs that have expired keep their row until the next full scan.
    IF EXISTS (
        SELECT
        FROM jobs.continuous_jobs c
        CROSS JOIN LATERAL (
            SELECT
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = c.job_id AND j.is_continuous
              AND j.job_id IS DISTINCT FROM p_replaced_job_id
              AND NOT jobs.is_expired_at(j.expires_at, jobs.now())
            OFFSET 0
        ) j
        WHERE c.tenant_id = p_tenant_id
        OFFSET 19
    ) THEN
        PERFORM jobs.raise_error('TOO_MANY_CONTINUOUS_JOBS');
    END IF;
END $$;
