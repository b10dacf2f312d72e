-- Marks a job as deleted if it has been finished for p_days, even if a device never finished its
-- execution of a canceled job. Returns whether this call deleted it.
-- For p_wait_ms see lock_job_with_timeout.
CREATE OR REPLACE FUNCTION jobs.apply_retention(
    p_tenant_id text, p_job_id text, p_days integer, p_wait_ms integer
) RETURNS boolean
LANGUAGE plpgsql
-- settings: tenant, index, lock timeout
AS $$
DECLARE
    v_now timestamptz;
BEGIN
    IF NOT jobs.lock_job_with_timeout(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN false;
    END IF;
    v_now := jobs.clock_time();

    UPDATE jobs.jobs j
    SET deleted_at = v_now
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND j.status <> 'IN_PROGRESS' AND j.deleted_at IS NULL
      AND j.updated_at < v_now - make_interval(days => p_days);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM jobs.set_job_labels(p_tenant_id, p_job_id, NULL);
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, v_now, 'job.deleted', NULL, '{"cause": "RETENTION"}'
    );
    RETURN true;
END $$;
