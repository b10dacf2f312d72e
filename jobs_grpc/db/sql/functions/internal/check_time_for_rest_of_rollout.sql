-- Raises EXPIRY_TOO_EARLY unless the last device of a job can start before the job expires. If the job is
-- paused, assumes that the pause ends now. The job has not expired. The caller holds the job lock and has set
-- the tenant.
CREATE OR REPLACE FUNCTION jobs.check_time_for_rest_of_rollout(
    p_tenant_id text, p_job_id text, p_now timestamptz
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_job record;
BEGIN
    SELECT extract(epoch FROM j.expires_at - greatest(p_now, j.start_at)) AS seconds_left,
           coalesce(j.start_at > p_now, false) AS is_scheduled
    INTO v_job
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    PERFORM jobs.check_time_for_rollout(
        jobs.time_for_rest_of_rollout(p_tenant_id, p_job_id, p_now),
        v_job.seconds_left, v_job.is_scheduled
    );
END $$;
