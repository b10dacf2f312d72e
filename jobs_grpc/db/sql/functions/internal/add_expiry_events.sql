-- Adds job.expired if the job has expired at p_now before it ended, and job.completed if no execution was
-- IN_PROGRESS then. Does nothing if the events exist. The caller holds the job lock, has set the tenant, and has
-- not changed the job yet: so these events precede those of its change, and have the counts before it.
--
-- The first transaction after the expiry that may change the job calls this function.
CREATE OR REPLACE FUNCTION jobs.add_expiry_events(
    p_tenant_id text, p_job_id text, p_now timestamptz
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_job record;
BEGIN
    -- The conditions are not in WHERE: see apply_failure_criteria.
    SELECT j.status = 'IN_PROGRESS' AND jobs.is_expired_at(j.expires_at, p_now)
               AND NOT p.has_expiry_event AS is_new,
           j.expires_at, p.in_progress
    INTO v_job
    FROM jobs.jobs j
    JOIN jobs.job_progress p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_job.is_new IS NOT TRUE THEN
        RETURN;
    END IF;

    UPDATE jobs.job_progress p
    SET has_expiry_event = true
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, p_now, 'job.expired', p_occurred_at => v_job.expires_at
    );
    IF v_job.in_progress = 0 THEN
        PERFORM jobs.add_event(
            p_tenant_id, p_job_id, p_now, 'job.completed', p_occurred_at => v_job.expires_at
        );
    END IF;
END $$;
