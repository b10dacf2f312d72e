-- Schedules a full scan for continuous jobs, because devices of notes have not joined them. A scan that is running
-- continues, and another one follows. The caller has set the tenant, and has deleted these notes: so rescan_at is not
-- earlier than the time of any of them.
CREATE OR REPLACE FUNCTION jobs.rescan_jobs(
    p_tenant_id text,
    p_job_ids text[]  -- NULL: all continuous jobs of the tenant
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_now timestamptz := jobs.clock_time();
    -- In the order of job_id, so that calls can't deadlock.
    v_job_ids text[] := ARRAY(
        SELECT c.job_id
        FROM jobs.continuous_jobs c
        WHERE c.tenant_id = p_tenant_id AND c.job_id = ANY (coalesce(p_job_ids, ARRAY[c.job_id]))
        ORDER BY c.job_id
        FOR UPDATE
    );
BEGIN
    UPDATE jobs.continuous_jobs c
    SET is_behind = true, rescan_at = v_now,
        scan_due_at = CASE WHEN c.scan_after IS NULL THEN v_now ELSE c.scan_due_at END
    WHERE c.tenant_id = p_tenant_id AND c.job_id = ANY (v_job_ids);
END $$;
