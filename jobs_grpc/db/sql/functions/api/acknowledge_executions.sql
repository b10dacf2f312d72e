-- Stores that a device knows the end of attempts, so that ended_executions no longer returns them. Ignores attempts
-- that it does not return.
--
-- If finalize_executions has not yet written an attempt that a forced cancel of the job ended, writes it in the same
-- way. Readers see no difference, so the version of the execution does not change.
--
-- Waits up to p_wait_ms for each job lock, then raises lock_not_available (SQLSTATE 55P03).
CREATE OR REPLACE FUNCTION jobs.acknowledge_executions(
    p_tenant_id text, p_device_id text,
    p_job_ids text[],
    p_execution_numbers integer[],  -- parallel
    p_wait_ms integer
) RETURNS void
LANGUAGE plpgsql
-- settings: tenant, lookup, nested loops
AS $$
DECLARE
    v_changes jobs.execution_change[];
    v_locked_job_ids text[];
    v_change jobs.execution_change;
    v_job record;
BEGIN
    v_changes := jobs.unacknowledged_executions(p_tenant_id, p_device_id, p_job_ids, p_execution_numbers);
    IF v_changes IS NULL THEN
        RETURN;
    END IF;
    v_locked_job_ids := jobs.lock_jobs(
        p_tenant_id, ARRAY(SELECT c.job_id FROM unnest(v_changes) c), p_wait_ms
    );
    -- Read again under the job locks: finalize_executions may have written an attempt. Without the attempts that were
    -- ended meanwhile, whose jobs are not locked: no response can have had them when the device sent this call.
    v_changes := jobs.unacknowledged_executions(p_tenant_id, p_device_id, p_job_ids, p_execution_numbers);
    FOREACH v_change IN ARRAY coalesce(v_changes, '{}') LOOP
        CONTINUE WHEN v_change.job_id <> ALL (v_locked_job_ids);
        IF v_change.stored_status <> 'IN_PROGRESS' THEN
            UPDATE jobs.job_executions e
            SET ended_number = NULL
            WHERE e.tenant_id = p_tenant_id AND e.ctid = v_change.row_id;
            CONTINUE;
        END IF;
        SELECT j.canceled_at, j.cancel_reason INTO v_job
        FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = v_change.job_id;
        PERFORM jobs.count_changes(p_tenant_id, ARRAY[v_change], v_job.canceled_at);
        UPDATE jobs.job_executions e
        SET status = 'REJECTED', canceled_by_operator = true, last_updated_at = v_job.canceled_at,
            status_details = jobs.final_status_details('REJECTED', v_job.cancel_reason),
            end_cause = 'JOB_CANCELED', times_out_at = NULL
        WHERE e.tenant_id = p_tenant_id AND e.ctid = v_change.row_id;
    END LOOP;
END $$;
