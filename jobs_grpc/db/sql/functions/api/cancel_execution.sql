-- Cancels one execution and returns it. Completes the job if none of its executions is
-- pending afterwards; otherwise, the next stage may open.
--
-- Raises EXECUTION_NOT_FOUND, EXECUTION_FINISHED (with the status), and, unless p_force,
-- EXECUTION_IN_PROGRESS.
CREATE OR REPLACE FUNCTION jobs.cancel_execution(
    p_tenant_id text, p_job_id text, p_device_id text,
    p_reason text,  -- '': none
    p_force boolean,
    p_user_id text DEFAULT NULL  -- NULL: unknown
) RETURNS TABLE (
    /* for each FIELD: FIELD TYPE */
)
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
#variable_conflict use_column
DECLARE
    v_job record;
    v_status jobs.execution_status;  -- as readers see it
    v_changes jobs.execution_change[];
BEGIN
    v_job := jobs.lock_job(
        p_tenant_id, p_job_id, p_not_found => 'EXECUTION_NOT_FOUND'
    );

    SELECT jobs.execution_status_at(
               e.status, v_job.canceled_at, v_job.force_canceled, v_job.expires_at, v_job.locked_at
           ),
           ARRAY[jobs.execution_change(
               job_id => e.job_id, device_id => e.device_id, row_id => e.ctid, stage => e.stage,
               execution_number => e.execution_number, stored_status => e.status,
               failed_status => e.failed_status, failed_code => e.failed_code,
               failed_at => e.failed_at, retries => e.retries,
               new_status => 'REJECTED',
               status_details => jobs.final_status_details('REJECTED', p_reason),
               end_cause => 'EXECUTION_CANCELED',
               is_expired => jobs.is_expired_at(v_job.expires_at, v_job.locked_at),
               has_rules => e.stage IS NOT NULL, execution_events => v_job.execution_events
           )]
    INTO v_status, v_changes
    FROM jobs.job_executions e
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = p_device_id;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error('EXECUTION_NOT_FOUND');
    ELSIF v_status NOT IN ('QUEUED', 'IN_PROGRESS') THEN
        PERFORM jobs.raise_error('EXECUTION_FINISHED', v_status::text);
    ELSIF v_status = 'IN_PROGRESS' AND NOT p_force THEN
        PERFORM jobs.raise_error('EXECUTION_IN_PROGRESS');
    END IF;

    PERFORM jobs.change_executions(p_tenant_id, v_changes, v_job.locked_at, p_user_id);

    RETURN QUERY
    SELECT /* for each FIELD: s.FIELD */
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.device_id = p_device_id;
END $$;
