-- Applies the updates (starts and reports) of a tenant's devices as one batch: locks their jobs, decides each
-- update (decide_batch, decide_retries), and carries out those that are APPLIED (change_executions). The arrays
-- are parallel, with one element per update; no device may occur twice. Returns one row per update, in order:
-- its outcome, the status before it, and the execution after it. The outcome is one of update_outcome, or
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
-- starts, which are deferred to a second round. So no execution starts after a failure that pauses the
-- job, and an execution that finishes makes room for one that starts.
--
-- If the wait for one job lock exceeds p_wait_ms, raises lock_not_available (SQLSTATE 55P03). All
-- job locks are taken before any execution is changed.
--
-- If a report ended an attempt and the retry policy has queued the next one, the returned execution is
-- the attempt that ended. If the report is repeated, the outcome is REPEATED, with the same attempt.
--
-- The status of the returned execution is derived for the start of the statement: if its job expired
-- while this call waited for the lock, the row does not show it.
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
    p_cancels_accepted boolean[] DEFAULT NULL,  -- the device accepts the cancel of the job, only with REJECTED
    -- One array for each field in REPORTED of execution_columns.py, such as p_reported_bys; NULL in it: keep the
    -- stored value. NULL if no update sets the field.
    /* for each reported FIELD: p_FIELDs TYPE[] DEFAULT NULL */
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
    due_at timestamptz,
    cancel_requested boolean,
    ended_executions jsonb  -- see the function; only with p_must_be_next
)
LANGUAGE plpgsql
-- A batch touches a few rows of a job that may have a million. Each row is looked up by an index,
-- whatever the statistics say: hence these settings, the LATERAL sub-selects with OFFSET 0 (which
-- the planner can't flatten into a join), and the updates by ctid in change_executions. So one generic
-- plan fits all arguments.
-- settings: tenant, page, nested loops
AS $$
#variable_conflict use_column
DECLARE
    v_job_ids text[] := p_job_ids;
    v_has_ended boolean[];  -- see has_ended_executions; NULL: not needed
    v_locked_job_ids text[];
    v_now timestamptz;
    v_decided record;  -- see decide_batch
    v_changes jobs.execution_change[];
    v_has_failures boolean := p_statuses && '{FAILED, REJECTED}';
    v_has_ends boolean := p_statuses && '{SUCCEEDED, FAILED, REJECTED}';
    -- The batch also has starts. The rules of a job may forbid them after the ends.
    v_defers_starts boolean := v_has_ends AND (
        array_position(p_statuses, NULL) IS NOT NULL OR 'IN_PROGRESS' = ANY (p_statuses)
    );
    v_deferred bigint[];  -- the positions of the deferred starts; NULL in the first round
    v_has_retry_policies boolean := false;
    v_attempts jobs.execution_attempts[];  -- see ended_attempts
BEGIN
    IF true = ANY (p_must_be_next) THEN
        FOR v_n IN 1 .. cardinality(p_device_ids) LOOP
            CONTINUE WHEN p_must_be_next[v_n] IS NOT TRUE;
            v_has_ended[v_n] := jobs.has_ended_executions(p_tenant_id, p_device_ids[v_n]);
            IF v_has_ended[v_n] IS NOT NULL AND v_job_ids[v_n] IS NULL THEN
                v_job_ids[v_n] := jobs.next_execution(p_tenant_id, p_device_ids[v_n]);
            END IF;
        END LOOP;
    END IF;
    IF cardinality(array_remove(v_job_ids, NULL)) = 0 THEN
        -- Most calls of StartNextExecution are from devices that have nothing to do.
        outcome := 'NONE';
        last_updated_at := jobs.clock_time();
        FOR v_n IN 1 .. cardinality(p_device_ids) LOOP
            due_at := CASE
                WHEN v_has_ended[v_n] IS NOT NULL THEN jobs.next_due_at(p_tenant_id, p_device_ids[v_n])
            END;
            ended_executions := CASE
                WHEN v_has_ended[v_n] THEN jobs.ended_executions(p_tenant_id, p_device_ids[v_n])
            END;
            RETURN NEXT;
        END LOOP;
        RETURN;
    END IF;

    v_locked_job_ids := jobs.lock_jobs(p_tenant_id, v_job_ids, p_wait_ms);
    v_now := jobs.clock_time();
    PERFORM jobs.set_read_time(v_now);

    -- One round for all updates. With deferred starts, a second round for these. In a round, everything is decided
    -- before the executions are changed. Only two things are written earlier: the events of an expiry, which
    -- precede those of the changes, and the attempts that end with a retry (decide_retries).
    LOOP
        v_decided := jobs.decide_batch(
            p_tenant_id, v_locked_job_ids, v_now, v_deferred, v_defers_starts, v_job_ids,
            p_must_be_next, p_device_ids, p_statuses, p_status_details, p_execution_numbers,
            p_expected_versions, p_extend_timeout_minutes, p_failure_codes, p_cancels_accepted,
            /* for each reported FIELD: p_FIELDs */
        );
        IF v_decided.expired_job_ids IS NOT NULL THEN
            PERFORM jobs.add_expiry_events(p_tenant_id, u.job_id, v_now)
            FROM (SELECT DISTINCT u.job_id FROM unnest(v_decided.expired_job_ids) AS u (job_id)) u;
        END IF;
        IF v_has_ends AND v_decided.has_rules THEN
            -- The time of all changes from here on, also of the starts in the second round: after the last restart of
            -- the criteria.
            v_now := jobs.end_time(p_tenant_id, v_locked_job_ids, v_now);
        END IF;
        IF v_has_failures AND v_decided.has_retry_policies THEN
            v_decided.changes := jobs.decide_retries(p_tenant_id, v_decided.changes, v_now);
        END IF;
        PERFORM jobs.change_executions(p_tenant_id, v_decided.changes, v_now);
        v_has_retry_policies := v_has_retry_policies OR coalesce(v_decided.has_retry_policies, false);
        v_changes := v_changes || v_decided.changes;

        EXIT WHEN NOT v_defers_starts;
        SELECT array_agg(c.n) FILTER (WHERE c.outcome = 'DEFERRED'),
               array_agg(c) FILTER (WHERE c.outcome <> 'DEFERRED')
        INTO v_deferred, v_changes
        FROM unnest(v_changes) c;
        EXIT WHEN v_deferred IS NULL;
        v_defers_starts := false;
    END LOOP;

    IF v_has_retry_policies THEN
        v_attempts := jobs.ended_attempts(p_tenant_id, v_changes, p_execution_numbers);
    END IF;

    RETURN QUERY
    SELECT CASE WHEN c.outcome = 'EXECUTION_CHANGED' AND a.status IS NOT NULL THEN 'REPEATED'
                ELSE c.outcome END,
           c.previous_status::text, c.job_id, s.device_id,
           CASE WHEN a.status IS NULL THEN s.status ELSE a.status::text END,
           CASE WHEN NOT coalesce(p_with_details[c.n], true) THEN NULL
                WHEN a.status IS NULL THEN s.status_details ELSE a.status_details END,
           coalesce(a.execution_number, s.execution_number), coalesce(a.queued_at, s.queued_at),
           CASE WHEN a.status IS NULL THEN s.started_at ELSE a.started_at END,
           CASE WHEN c.outcome = 'NONE' THEN v_now
                ELSE coalesce(a.last_updated_at, s.last_updated_at) END,
           coalesce(a.version, s.version), s.document_type,
           CASE WHEN p_with_documents[c.n] AND c.outcome NOT IN ('BUSY', 'AGAIN')
                THEN s.document_params END,
           s.expires_at, CASE WHEN a.status IS NULL THEN s.times_out_at END,
           CASE WHEN a.status IS NULL THEN s.failure_code ELSE a.failure_code END,
           CASE WHEN c.outcome = 'NONE' AND v_has_ended[c.n] IS NOT NULL
                    THEN jobs.next_due_at(p_tenant_id, c.device_id)
                -- Not from pending_executions: at the start of the statement, it may have been HELD.
                WHEN c.outcome = 'EXECUTION_NOT_DUE'
                    THEN jobs.execution_due_at(p_tenant_id, c.job_id, c.device_id, v_now) END,
           s.cancel_requested,
           CASE WHEN v_has_ended[c.n] THEN jobs.ended_executions(p_tenant_id, c.device_id) END
    FROM unnest(v_changes) c
    LEFT JOIN LATERAL (
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = c.job_id AND s.device_id = c.device_id
        OFFSET 0
    ) s ON true
    -- Not a join with execution_attempts: each call would prepare it, and few need it.
    CROSS JOIN LATERAL (
        SELECT (v.attempt).*
        FROM (SELECT v_attempts[c.n] AS attempt OFFSET 0) v
    ) a
    ORDER BY c.n;
END $$;
