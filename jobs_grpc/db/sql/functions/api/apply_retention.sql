-- Marks a job deleted that has been over for p_days, also if a device that was at work
-- when it was canceled never came back. Answers whether it was this call.
-- See lock_job for p_wait_ms.
CREATE OR REPLACE FUNCTION jobs.apply_retention(
    p_tenant_id text, p_job_id text, p_days integer, p_wait_ms integer
) RETURNS boolean
LANGUAGE plpgsql
SET lock_timeout = '1s'
AS $$
DECLARE
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF NOT jobs.lock_job(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN false;
    END IF;
    v_now := clock_timestamp();

    UPDATE jobs.jobs j
    SET deleted_at = v_now
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND j.status <> 'IN_PROGRESS' AND j.deleted_at IS NULL
      AND j.updated_at < v_now - make_interval(days => p_days);
    RETURN FOUND;
END $$;
