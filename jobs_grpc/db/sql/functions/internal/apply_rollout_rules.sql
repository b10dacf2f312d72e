-- Applies the failure criteria and the gates of a job after its counts or its settings changed. Does
-- nothing if the job has neither, is finished, or is paused. The caller holds the job lock and has set
-- the tenant.
CREATE OR REPLACE FUNCTION jobs.apply_rollout_rules(
    p_tenant_id text, p_job_id text, p_now timestamptz
) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM jobs.open_stages(p_tenant_id, p_job_id, p_now);
END $$;
