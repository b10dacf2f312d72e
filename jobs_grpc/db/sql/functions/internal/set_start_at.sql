-- Changes the start time of a job that has not started, and the times that count from it: the release of
-- executions, the times of the stages that open at the start, and expires_at. The caller holds the job lock,
-- has set the tenant, and applies the rules of the job afterwards.
CREATE OR REPLACE FUNCTION jobs.set_start_at(
    p_tenant_id text, p_job_id text, p_start_at timestamptz
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_expires_at timestamptz;
BEGIN
    SELECT j.expires_at + jobs.elapsed_time(j.start_at, p_start_at) INTO v_expires_at
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    UPDATE jobs.jobs j
    SET start_at = p_start_at, release_since = p_start_at, expires_at = v_expires_at
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;

    UPDATE jobs.job_stages s
    SET opened_at = p_start_at, active_since = p_start_at,
        gate_met_since = CASE WHEN s.gate_met_since IS NOT NULL THEN p_start_at END
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.opened_at IS NOT NULL;
END $$;
