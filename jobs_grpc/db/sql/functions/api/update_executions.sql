-- depends on: apply_retry_policies, apply_updates, count_updates, decide_batch, ended_attempts, execution_due_at, next_due_at
-- Applies the updates (starts and reports) of a tenant's devices as one batch, and completes the
-- jobs that have no pending execution anymore. The arrays are parallel, with one element per
-- update; no device may occur twice. Returns one row per update, in order: its outcome, the status
-- before it, and the execution after it. The outcome is one of update_outcome, or
--
-- NONE      the device has no next execution
-- AGAIN     with p_must_be_next: while this call waited for the job lock, another execution became the
--           device's next one; the caller must repeat the update with the job_id NULL
-- BUSY      the job is not locked: another transaction holds the job lock and p_wait_ms is 0, or the
--           job was created after the locks were taken
-- JOB_FULL  the job has max_in_progress executions IN_PROGRESS; with p_must_be_next, the outcome is
--           AGAIN instead
--
-- If a job has failure criteria or a rollout, its reports are applied first, then its rules, then its
-- starts. So no execution starts after a failure that pauses the job, and an execution that finishes
-- makes room for one that starts.
--
-- If the wait for one job lock exceeds p_wait_ms, raises lock_not_available (SQLSTATE 55P03). All
-- job locks are taken before any execution is changed.
--
-- If a report ended an attempt and the retry policy has queued the next one, the returned execution is
-- the attempt that ended. A repeated report returns the same.
--
-- The returned execution is as of the start of the statement: if its job expired while this call
-- waited for the lock, the row does not show it.
CREATE OR REPLACE FUNCTION jobs.update_executions(
    p_tenant_id text,
    p_wait_ms integer,              -- the longest wait for a job lock; 0: do not wait
    p_job_ids text[],               -- NULL: the job of the device's next execution
    p_must_be_next boolean[],       -- apply only to the device's next execution
    p_device_ids text[],
    p_statuses text[],              -- NULL: start the execution
    p_status_details text[],        -- JSON; NULL: keep the stored details
    p_execution_numbers integer[],  -- NULL: the current attempt
    p_expected_versions integer[],  -- NULL: any
    p_extend_timeout_minutes integer[],  -- from now, only with IN_PROGRESS; NULL: keep the timeout
    p_with_documents boolean[],     -- return the document_params
    p_failure_codes text[] DEFAULT NULL,  -- only with FAILED and REJECTED; NULL: none
    p_with_details boolean[] DEFAULT NULL,  -- return the status_details; NULL: true
    -- Without it, the outcome is EXECUTION_HELD instead of EXECUTION_NOT_DUE, which earlier servers do not
    -- know, and due_at is NULL.
    p_with_due_at boolean DEFAULT false,
    -- Per update: the bridge's subject, '' if it has none, NULL for the device itself. The array is NULL if
    -- no update is from a bridge.
    p_reported_bys text[] DEFAULT NULL
) RETURNS TABLE (
    outcome text,
    previous_status text,
    job_id text,
    device_id text,
    status text,
    status_details jsonb,
    execution_number integer,
    queued_at timestamptz,
    started_at timestamptz,
    last_updated_at timestamptz,
    version integer,
    document_type text,
    document_params jsonb,
    expires_at timestamptz,
    times_out_at timestamptz,
    failure_code text,
    -- With EXECUTION_NOT_DUE, when the execution is due. With NONE, when the first of the device's waiting
    -- executions is due (see next_due_at); last_updated_at is then the current time.
    due_at timestamptz
)
LANGUAGE plpgsql
-- A batch touches a few rows of a job that may have a million. Each row is looked up by an index,
-- whatever the statistics say: hence these settings, the LATERAL sub-selects with OFFSET 0 (which
-- the planner can't flatten into a join), and the updates by ctid. So one generic plan fits all
-- arguments.
-- settings: lookup, nested loops
AS $$
#variable_conflict use_column
DECLARE
    v_job_ids text[] := p_job_ids;
    v_locked_job_ids text[];
    v_now timestamptz;
    v_decided record;
    v_updates jobs.decided_update[];
    v_not_deferred jobs.decided_update[];
    v_applied record;
    v_job_id text;
    v_device_id text;
    -- Reports of the batch can change what the rules of its jobs allow to start.
    v_has_final_reports boolean := p_statuses && '{SUCCEEDED, FAILED, REJECTED}';
    v_defers_starts boolean := v_has_final_reports AND (
        array_position(p_statuses, NULL) IS NOT NULL OR 'IN_PROGRESS' = ANY (p_statuses)
    );
    v_has_retry_policies boolean;
    v_failed_ats timestamptz[];  -- see apply_retry_policies
    v_attempts jobs.execution_attempts[];  -- see ended_attempts
    v_deferred bigint[];  -- the positions of the starts that wait for these reports and rules
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF true = ANY (p_must_be_next) THEN
        SELECT array_agg(
            CASE WHEN u.must_be_next AND u.job_id IS NULL
                 THEN jobs.next_execution(p_tenant_id, u.device_id) ELSE u.job_id END
            ORDER BY u.n
        )
        INTO v_job_ids
        FROM unnest(p_job_ids, p_must_be_next, p_device_ids) WITH ORDINALITY
            AS u (job_id, must_be_next, device_id, n);
    END IF;
    IF cardinality(array_remove(v_job_ids, NULL)) = 0 THEN
        -- Most calls of StartNextExecution are from devices that have nothing to do.
        outcome := 'NONE';
        last_updated_at := jobs.clock_time();
        FOREACH v_device_id IN ARRAY p_device_ids LOOP
            due_at := CASE WHEN p_with_due_at THEN jobs.next_due_at(p_tenant_id, v_device_id) END;
            RETURN NEXT;
        END LOOP;
        RETURN;
    END IF;

    v_locked_job_ids := jobs.lock_jobs(p_tenant_id, v_job_ids, p_wait_ms);
    v_now := jobs.clock_time();
    PERFORM jobs.set_read_time(v_now);

    v_decided := jobs.decide_batch(
        p_tenant_id, v_locked_job_ids, v_now, NULL, v_defers_starts, v_job_ids, p_must_be_next,
        p_device_ids, p_statuses, p_status_details, p_execution_numbers, p_expected_versions,
        p_extend_timeout_minutes, p_failure_codes
    );
    v_updates := v_decided.updates;
    v_has_retry_policies := coalesce(v_decided.has_retry_policies, false);
    IF v_decided.expired_job_ids IS NOT NULL THEN
        FOR v_job_id IN SELECT DISTINCT u.job_id FROM unnest(v_decided.expired_job_ids) AS u (job_id)
        LOOP
            PERFORM jobs.add_expiry_events(p_tenant_id, v_job_id, v_now);
        END LOOP;
    END IF;
    v_applied := jobs.apply_updates(p_tenant_id, v_updates, v_now, p_reported_bys);
    IF v_applied.ruled_job_ids IS NOT NULL OR p_statuses && '{FAILED, REJECTED}' THEN
        PERFORM jobs.count_updates(p_tenant_id, v_updates);
    END IF;
    IF v_has_retry_policies THEN
        v_failed_ats := jobs.apply_retry_policies(p_tenant_id, v_updates, v_now);
    END IF;
    IF v_decided.finished_attempts IS NOT NULL THEN
        PERFORM jobs.add_finished_events(
            p_tenant_id, v_decided.finished_attempts, v_has_retry_policies, v_now
        );
    END IF;
    IF v_applied.idle_job_ids IS NOT NULL THEN
        PERFORM jobs.complete_finished_jobs(p_tenant_id, v_applied.idle_job_ids, v_now);
    END IF;

    IF v_has_final_reports AND v_applied.ruled_job_ids IS NOT NULL THEN
        FOREACH v_job_id IN ARRAY v_applied.ruled_job_ids LOOP
            PERFORM jobs.apply_rollout_rules(
                p_tenant_id, v_job_id, v_now, bool_or(u.new_status <> 'SUCCEEDED'),
                array_agg(u.stage), array_agg(v_failed_ats[u.n])
            )
            FROM unnest(v_updates) u
            WHERE u.outcome = 'APPLIED' AND u.job_id = v_job_id
              AND u.new_status IN ('SUCCEEDED', 'FAILED', 'REJECTED');
        END LOOP;
    END IF;
    IF v_defers_starts THEN
        SELECT array_agg(u.n) FILTER (WHERE u.outcome = 'DEFERRED'),
               array_agg(u) FILTER (WHERE u.outcome <> 'DEFERRED')
        INTO v_deferred, v_not_deferred
        FROM unnest(v_updates) u;
        IF v_deferred IS NOT NULL THEN
            v_decided := jobs.decide_batch(
                p_tenant_id, v_locked_job_ids, v_now, v_deferred, false, v_job_ids, p_must_be_next,
                p_device_ids, p_statuses, p_status_details, p_execution_numbers,
                p_expected_versions, p_extend_timeout_minutes, p_failure_codes
            );
            v_updates := v_decided.updates;
            PERFORM jobs.apply_updates(p_tenant_id, v_updates, v_now, p_reported_bys);
            PERFORM jobs.count_updates(p_tenant_id, v_updates);
            IF v_decided.has_retry_policies THEN
                PERFORM jobs.apply_retry_policies(p_tenant_id, v_updates, v_now);
            END IF;
            v_updates := v_not_deferred || v_updates;
        END IF;
    END IF;

    IF v_has_retry_policies THEN
        v_attempts := jobs.ended_attempts(p_tenant_id, v_updates, p_execution_numbers);
    END IF;

    RETURN QUERY
    SELECT CASE WHEN u.outcome = 'EXECUTION_CHANGED' AND a.status IS NOT NULL THEN 'REPEATED'
                WHEN u.outcome = 'EXECUTION_NOT_DUE' AND NOT p_with_due_at THEN 'EXECUTION_HELD'
                ELSE u.outcome END,
           u.previous_status::text, u.job_id, s.device_id,
           CASE WHEN a.status IS NULL THEN s.status ELSE a.status::text END,
           CASE WHEN NOT coalesce(p_with_details[u.n], true) THEN NULL
                WHEN a.status IS NULL THEN s.status_details ELSE a.status_details END,
           coalesce(a.execution_number, s.execution_number), coalesce(a.queued_at, s.queued_at),
           CASE WHEN a.status IS NULL THEN s.started_at ELSE a.started_at END,
           CASE WHEN u.outcome = 'NONE' THEN v_now
                ELSE coalesce(a.last_updated_at, s.last_updated_at) END,
           coalesce(a.version, s.version), s.document_type,
           CASE WHEN p_with_documents[u.n] AND u.outcome NOT IN ('BUSY', 'AGAIN')
                THEN s.document_params END,
           s.expires_at, CASE WHEN a.status IS NULL THEN s.times_out_at END,
           CASE WHEN a.status IS NULL THEN s.failure_code ELSE a.failure_code END,
           CASE WHEN NOT p_with_due_at THEN NULL
                WHEN u.outcome = 'NONE' THEN jobs.next_due_at(p_tenant_id, u.device_id)
                -- Not from pending_executions: at the start of the statement, it may have been HELD.
                WHEN u.outcome = 'EXECUTION_NOT_DUE'
                    THEN jobs.execution_due_at(p_tenant_id, u.job_id, u.device_id, v_now) END
    FROM unnest(v_updates) u
    LEFT JOIN LATERAL (
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = u.job_id AND s.device_id = u.device_id
        OFFSET 0
    ) s ON true
    -- Not a join with execution_attempts: each call would prepare it, and few need it.
    CROSS JOIN LATERAL (
        SELECT (v.attempt).*
        FROM (SELECT v_attempts[u.n] AS attempt OFFSET 0) v
    ) a
    ORDER BY u.n;
END $$;
