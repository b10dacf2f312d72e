-- Stores that devices know the end of attempts, so that ended_executions no longer returns them. Ignores attempts
-- that it does not return.
--
-- If finalize_executions has not yet written an attempt that a forced cancel of the job ended, writes it in the same
-- way. Readers see no difference, so the version of the execution does not change.
--
-- Waits for no job lock: skips the attempts of jobs that another transaction has locked.
CREATE OR REPLACE FUNCTION jobs.acknowledge_executions(
    p_tenant_id text,
    p_device_ids text[],            -- this and the next two are parallel
    p_job_ids text[],
    p_execution_numbers integer[],
    OUT busy_job_ids text[]         -- the jobs whose attempts were skipped
)
LANGUAGE plpgsql
-- settings: tenant, lookup, nested loops
AS $$
DECLARE
    v_changes jobs.execution_change[];
    v_job_ids text[];
    v_locked_job_ids text[];
    v_job record;
    v_change jobs.execution_change;
BEGIN
    busy_job_ids := '{}';
    v_changes := jobs.unacknowledged_executions(p_tenant_id, p_device_ids, p_job_ids, p_execution_numbers);
    IF v_changes IS NULL THEN
        RETURN;
    END IF;
    v_job_ids := ARRAY(SELECT DISTINCT c.job_id FROM unnest(v_changes) c);
    v_locked_job_ids := jobs.lock_jobs(p_tenant_id, v_job_ids, 0);
    busy_job_ids := ARRAY(SELECT u.job_id FROM unnest(v_job_ids) u (job_id) WHERE u.job_id <> ALL (v_locked_job_ids));

    -- Read again under the job locks: finalize_executions may have written an attempt. Without the attempts that were
    -- ended meanwhile, whose jobs are not locked.
    v_changes := ARRAY(
        SELECT c
        FROM unnest(jobs.unacknowledged_executions(
            p_tenant_id, p_device_ids, p_job_ids, p_execution_numbers
        )) c
        WHERE c.job_id = ANY (v_locked_job_ids)
    );
    FOR v_job IN
        SELECT c.job_id, array_agg(c) AS changes
        FROM unnest(v_changes) c
        WHERE c.stored_status = 'IN_PROGRESS'
        GROUP BY c.job_id
    LOOP
        PERFORM jobs.count_changes(p_tenant_id, v_job.changes, jobs.clock_time());
    END LOOP;
    -- One by one: for several rows, the planner may prefer an index to their ctids.
    FOREACH v_change IN ARRAY v_changes LOOP
        IF v_change.stored_status <> 'IN_PROGRESS' THEN
            UPDATE jobs.job_executions e
            SET ended_number = NULL
            WHERE e.tenant_id = p_tenant_id AND e.ctid = v_change.row_id;
            CONTINUE;
        END IF;
        SELECT j.canceled_at, j.cancel_reason INTO v_job
        FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = v_change.job_id;
        UPDATE jobs.job_executions e
        SET status = 'REJECTED', canceled_by_operator = true, last_updated_at = v_job.canceled_at,
            status_details = jobs.final_status_details('REJECTED', v_job.cancel_reason),
            end_cause = 'JOB_CANCELED', times_out_at = NULL
        WHERE e.tenant_id = p_tenant_id AND e.ctid = v_change.row_id;
    END LOOP;
END $$;
