-- Cancels a job that is IN_PROGRESS. Writes one row, however many executions the job has: readers
-- derive the status of those that are QUEUED and, with p_force, of those that are IN_PROGRESS. The
-- caller holds the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.set_canceled(
    p_tenant_id text, p_job_id text, p_now timestamptz,
    p_cause text,       -- as in Event.cause
    p_reason text,
    p_force boolean,
    p_canceled_by text,  -- NULL: unknown, or not a user
    p_details jsonb DEFAULT '{}'  -- of the event, in addition to the cause and the reason
) RETURNS void
LANGUAGE plpgsql
-- settings: index
AS $$
DECLARE
    v_was_continuous boolean;
BEGIN
    UPDATE jobs.jobs j
    SET status = 'CANCELED', canceled_at = p_now, cancel_reason = p_reason,
        force_canceled = p_force, finalized = false, updated_at = p_now,
        awaiting_approval = false, stage_due_at = NULL, revision = j.revision + 1, is_continuous = false
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
    RETURNING j.joined_count IS NOT NULL INTO v_was_continuous;
    IF v_was_continuous THEN
        DELETE FROM jobs.continuous_jobs c WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;
    END IF;
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, p_now, 'job.canceled', p_canceled_by,
        jsonb_build_object('cause', p_cause, 'reason', p_reason) || p_details
    );
END $$;
