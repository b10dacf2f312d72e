-- Pauses a job that is IN_PROGRESS. If it is paused, replaces the cause: the pause keeps its time. The caller holds
-- the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.set_paused(
    p_tenant_id text, p_job_id text, p_now timestamptz,
    p_cause text,      -- of Pause.Cause
    p_reason text,
    p_paused_by text   -- NULL: unknown, or not a user
) RETURNS void
LANGUAGE plpgsql
-- settings: index
AS $$
BEGIN
    UPDATE jobs.jobs j
    SET paused_at = coalesce(j.paused_at, p_now), paused_by = p_paused_by, pause_reason = p_reason,
        pause_cause = p_cause, revision = j.revision + 1,
        updated_at = CASE WHEN j.paused_at IS NULL THEN p_now ELSE j.updated_at END
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, p_now, 'job.paused', p_paused_by,
        jsonb_build_object('cause', p_cause, 'reason', p_reason)
    );
END $$;
