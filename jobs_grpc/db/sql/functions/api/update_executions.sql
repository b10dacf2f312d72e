-- Applies the updates (starts and reports) of a tenant's devices as one batch, and completes the
-- jobs that have no pending execution anymore. The arrays are parallel, with one element per
-- update; no device may occur twice. Returns one row per update, in order: its outcome, the status
-- before it, and the execution after it. The outcome is one of update_outcome, or
--
-- NONE      the device has no next execution
-- AGAIN     another execution became the device's next one while this call waited for the job lock;
--           the caller sends the update again without a job_id
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
    p_with_details boolean[] DEFAULT NULL  -- return the status_details; NULL: true
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
    failure_code text
)
LANGUAGE plpgsql
-- A batch touches a few rows of a job that may have a million. Each row is looked up by an index,
-- whatever the statistics say: hence these settings, the LATERAL sub-selects with OFFSET 0 (which
-- the planner can't flatten into a join), and the update by ctid. So one generic plan fits all
-- arguments.
-- settings: lookup, nested loops
AS $$
#variable_conflict use_column
DECLARE
    v_job_ids text[] := p_job_ids;
    v_locked_job_ids text[];
    v_now timestamptz;
    -- Of each update; while a start waits for the second phase, its outcome is DEFERRED.
    v_outcomes text[];
    v_previous_statuses text[];
    v_stages smallint[];
    -- Whether a report of the batch can change what the rules of its job allow to start.
    v_has_final_reports boolean := p_statuses && '{SUCCEEDED, FAILED, REJECTED}';
    v_deferred bigint[];          -- the positions of the updates in the second phase
    v_phase_outcomes text[];      -- this and the next two: of the updates of one phase
    v_phase_statuses text[];
    v_phase_stages smallint[];
    v_updated_job_ids text[];
    v_idle_job_ids text[];        -- those of them without an execution that is IN_PROGRESS
    v_has_rules boolean;          -- a job with rules was updated
    v_job_id text;
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

    v_locked_job_ids := jobs.lock_jobs(p_tenant_id, v_job_ids, p_wait_ms);
    v_now := jobs.clock_time();
    PERFORM jobs.set_read_time(v_now);

    FOR v_phase IN 1..2 LOOP
        WITH input AS (
            SELECT u.n, u.job_id, u.must_be_next, u.device_id,
                   u.status::jobs.execution_status AS status,
                   u.status_details::jsonb AS status_details, u.execution_number,
                   u.expected_version,
                   v_now + make_interval(mins => u.extend_timeout_minutes) AS extended_until,
                   u.failure_code
            FROM unnest(v_job_ids, p_must_be_next, p_device_ids, p_statuses, p_status_details,
                        p_execution_numbers, p_expected_versions, p_extend_timeout_minutes,
                        p_failure_codes)
                WITH ORDINALITY
                AS u (job_id, must_be_next, device_id, status, status_details, execution_number,
                      expected_version, extend_timeout_minutes, failure_code, n)
            WHERE v_phase = 1 OR u.n = ANY (v_deferred)
        ), current AS (
            -- row_id is the ctid of the execution. It stays valid until this statement ends,
            -- because only a transaction that holds the job lock updates or deletes executions, and
            -- the statement's snapshot is newer than the lock. (An execution whose job is not locked
            -- has a row_id too, but its outcome is BUSY, so it is not updated.) Two changes would
            -- break this. A writer without the job lock moves the row: the UPDATE below skips it,
            -- but the outcome stays APPLIED. And a later statement that uses row_id can hit another
            -- row, because vacuum makes ctids reusable.
            SELECT u.*, j.job_id IS NOT NULL AND j.job_id <> ALL (v_locked_job_ids) AS busy,
                   j.has_rules, j.max_in_progress,
                   derived.status = 'QUEUED' AND coalesce(u.status, 'IN_PROGRESS') = 'IN_PROGRESS'
                       AS is_start,
                   e.ctid AS row_id, e.stage, e.status AS stored_status,
                   derived.status AS current_status,
                   v_now + make_interval(mins => j.in_progress_timeout_minutes) AS times_out_at,
                   jobs.update_outcome(
                       derived.status,
                       e.status_details, e.failure_code, e.execution_number, e.version,
                       e.canceled_by_operator OR derived.status <> e.status,
                       derived.status = 'QUEUED' AND jobs.is_held_at(
                           e.rank, j.release_end, j.release_base, j.release_rate, j.release_since,
                           j.paused_at, v_now
                       ),
                       j.paused_at IS NOT NULL,
                       u.status, u.status_details, u.failure_code, u.execution_number,
                       u.expected_version
                   ) AS outcome
            FROM input u
            LEFT JOIN LATERAL (
                SELECT j.job_id, j.canceled_at, j.force_canceled, j.expires_at, j.paused_at,
                       j.in_progress_timeout_minutes, j.max_in_progress,
                       j.open_stage IS NOT NULL OR j.has_failure_criteria AS has_rules,
                       j.release_end, j.release_base, j.release_rate, j.release_since
                FROM jobs.jobs j
                WHERE j.tenant_id = p_tenant_id AND j.job_id = u.job_id AND j.deleted_at IS NULL
                OFFSET 0
            ) j ON true
            LEFT JOIN LATERAL (
                SELECT e.ctid, e.status, e.status_details, e.execution_number, e.version,
                       e.canceled_by_operator, e.failure_code, e.rank, e.stage
                FROM jobs.job_executions e
                WHERE e.tenant_id = p_tenant_id AND e.job_id = j.job_id
                  AND e.device_id = u.device_id
                OFFSET 0
            ) e ON true
            CROSS JOIN LATERAL (
                SELECT jobs.execution_status_at(
                    e.status, j.canceled_at, j.force_canceled, j.expires_at, v_now
                ) AS status
                OFFSET 0  -- computed once
            ) derived
        ), decided AS (
            SELECT c.n, c.job_id, c.must_be_next, c.status, c.status_details, c.extended_until,
                   c.failure_code, c.row_id, c.stage, c.stored_status, c.current_status,
                   c.times_out_at, c.has_rules,
                   CASE WHEN c.is_start THEN c.max_in_progress END AS max_in_progress,
                   CASE
                       WHEN c.busy THEN 'BUSY'
                       WHEN c.must_be_next AND c.job_id IS NULL THEN 'NONE'
                       WHEN v_phase = 1 AND v_has_final_reports AND c.has_rules AND c.is_start
                           THEN 'DEFERRED'
                       WHEN c.must_be_next AND (
                           c.outcome NOT IN ('APPLIED', 'REPEATED')
                           OR c.job_id IS DISTINCT FROM
                               jobs.next_execution(p_tenant_id, c.device_id)
                       ) THEN 'AGAIN'
                       ELSE c.outcome
                   END AS outcome
            FROM current c
        ), too_many AS (
            -- The starts beyond the limit of their job. Read only if a job has a limit.
            SELECT ARRAY(
                SELECT start.n
                FROM (
                    SELECT d.n, d.job_id, d.max_in_progress,
                           row_number() OVER (PARTITION BY d.job_id ORDER BY d.n) AS number
                    FROM decided d
                    WHERE d.max_in_progress IS NOT NULL AND d.outcome = 'APPLIED'
                ) start
                CROSS JOIN LATERAL (
                    SELECT p.in_progress
                    FROM jobs.job_progress p
                    WHERE p.tenant_id = p_tenant_id AND p.job_id = start.job_id
                    OFFSET 0
                ) p
                WHERE start.number > start.max_in_progress - p.in_progress
            ) AS numbers
        ), updated AS (
            UPDATE jobs.job_executions e
            SET status = coalesce(d.status, 'IN_PROGRESS'),
                status_details = coalesce(d.status_details, e.status_details),
                version = e.version + 1,
                started_at = CASE WHEN coalesce(d.status, 'IN_PROGRESS') = 'IN_PROGRESS'
                                  THEN coalesce(e.started_at, v_now) ELSE e.started_at END,
                times_out_at = CASE WHEN d.status <> 'IN_PROGRESS' THEN NULL
                                    WHEN d.extended_until IS NOT NULL THEN d.extended_until
                                    WHEN e.status = 'QUEUED' THEN d.times_out_at
                                    ELSE e.times_out_at END,
                last_updated_at = v_now,
                failure_code = CASE WHEN d.status IN ('FAILED', 'REJECTED')
                                    THEN coalesce(d.failure_code, '') END
            FROM decided d
            WHERE d.outcome = 'APPLIED'
              AND (d.max_in_progress IS NULL
                   OR d.n <> ALL ((SELECT t.numbers FROM too_many t)::bigint[]))
              AND e.tenant_id = p_tenant_id AND e.ctid = d.row_id
            RETURNING e.job_id, d.stored_status AS old_status, e.status AS new_status
        ), status_changes AS (
            SELECT u.job_id,
                   count(*) FILTER (WHERE u.old_status = 'QUEUED') AS from_queued,
                   count(*) FILTER (WHERE u.old_status = 'IN_PROGRESS') AS from_in_progress,
                   count(*) FILTER (WHERE u.new_status = 'IN_PROGRESS') AS to_in_progress,
                   count(*) FILTER (WHERE u.new_status = 'SUCCEEDED') AS to_succeeded,
                   count(*) FILTER (WHERE u.new_status = 'FAILED') AS to_failed,
                   count(*) FILTER (WHERE u.new_status = 'REJECTED') AS to_rejected
            FROM updated u
            GROUP BY u.job_id
        ), updated_progress AS (
            UPDATE jobs.job_progress p
            SET queued = p.queued - c.from_queued,
                in_progress = p.in_progress - c.from_in_progress + c.to_in_progress,
                succeeded = p.succeeded + c.to_succeeded,
                failed = p.failed + c.to_failed,
                rejected = p.rejected + c.to_rejected
            FROM (
                SELECT c.*, p.row_id
                FROM status_changes c
                CROSS JOIN LATERAL (
                    SELECT p.ctid AS row_id
                    FROM jobs.job_progress p
                    WHERE p.tenant_id = p_tenant_id AND p.job_id = c.job_id
                    OFFSET 0
                ) p
            ) c
            WHERE p.tenant_id = p_tenant_id AND p.ctid = c.row_id
            RETURNING p.job_id, p.in_progress
        )
        SELECT array_agg(d.outcome ORDER BY d.n), array_agg(d.current_status::text ORDER BY d.n),
               array_agg(d.stage ORDER BY d.n),
               array_agg(DISTINCT d.job_id) FILTER (WHERE d.outcome = 'APPLIED'),
               ARRAY(SELECT p.job_id FROM updated_progress p WHERE p.in_progress = 0),
               bool_or(d.has_rules AND d.outcome = 'APPLIED')
        INTO v_phase_outcomes, v_phase_statuses, v_phase_stages, v_updated_job_ids,
             v_idle_job_ids, v_has_rules
        FROM (
            SELECT d.n, d.job_id, d.current_status, d.stage, d.has_rules,
                   CASE WHEN d.max_in_progress IS NULL OR d.outcome <> 'APPLIED'
                             OR d.n <> ALL ((SELECT t.numbers FROM too_many t)::bigint[])
                        THEN d.outcome
                        WHEN d.must_be_next THEN 'AGAIN'
                        ELSE 'JOB_FULL' END AS outcome
            FROM decided d
            OFFSET 0
        ) d;

        IF v_phase = 1 THEN
            v_outcomes := v_phase_outcomes;
            v_previous_statuses := v_phase_statuses;
            v_stages := v_phase_stages;
        ELSE
            FOR v_index IN 1..cardinality(v_deferred) LOOP
                v_outcomes[v_deferred[v_index]] := v_phase_outcomes[v_index];
                v_previous_statuses[v_deferred[v_index]] := v_phase_statuses[v_index];
                v_stages[v_deferred[v_index]] := v_phase_stages[v_index];
            END LOOP;
        END IF;

        IF v_has_rules THEN
            PERFORM jobs.count_stage_changes(
                p_tenant_id, array_agg(u.job_id), array_agg(u.stage),
                array_agg(u.previous_status::jobs.execution_status),
                array_agg(coalesce(u.status, 'IN_PROGRESS')::jobs.execution_status)
            )
            FROM unnest(v_outcomes, v_job_ids, v_stages, v_previous_statuses, p_statuses)
                WITH ORDINALITY AS u (outcome, job_id, stage, previous_status, status, n)
            WHERE u.outcome = 'APPLIED' AND u.stage IS NOT NULL
              AND (v_phase = 1 OR u.n = ANY (v_deferred))
            HAVING count(*) > 0;
        END IF;
        EXIT WHEN v_phase = 2;

        IF p_statuses && '{FAILED, REJECTED}' THEN
            PERFORM jobs.count_failures(
                p_tenant_id, array_agg(u.job_id), array_agg(u.status::jobs.execution_status),
                array_agg(coalesce(u.failure_code, '')), array_agg(u.stage)
            )
            FROM unnest(v_outcomes, v_job_ids, p_statuses, p_failure_codes, v_stages)
                AS u (outcome, job_id, status, failure_code, stage)
            WHERE u.outcome = 'APPLIED' AND u.status IN ('FAILED', 'REJECTED')
            HAVING count(*) > 0;
        END IF;

        IF cardinality(v_idle_job_ids) > 0 THEN
            PERFORM jobs.complete_finished_jobs(p_tenant_id, v_idle_job_ids, v_now);
        END IF;

        IF v_has_rules AND v_has_final_reports THEN
            FOREACH v_job_id IN ARRAY v_updated_job_ids LOOP
                PERFORM jobs.apply_rollout_rules(
                    p_tenant_id, v_job_id, v_now,
                    CASE WHEN bool_or(u.status <> 'SUCCEEDED') THEN NULL
                         ELSE count(*)::integer END,
                    array_agg(u.stage)
                )
                FROM unnest(v_outcomes, v_job_ids, p_statuses, v_stages)
                    AS u (outcome, job_id, status, stage)
                WHERE u.outcome = 'APPLIED' AND u.job_id = v_job_id
                  AND u.status IN ('SUCCEEDED', 'FAILED', 'REJECTED');
            END LOOP;
        END IF;

        EXIT WHEN 'DEFERRED' <> ALL (v_outcomes);
        SELECT array_agg(u.n ORDER BY u.n) INTO v_deferred
        FROM unnest(v_outcomes) WITH ORDINALITY AS u (outcome, n)
        WHERE u.outcome = 'DEFERRED';
    END LOOP;

    -- Servers without rollouts send no failure codes, and would treat these outcomes as APPLIED.
    IF p_failure_codes IS NULL THEN
        v_outcomes := array_replace(v_outcomes, 'EXECUTION_HELD', 'EXECUTION_NOT_FOUND');
        v_outcomes := array_replace(v_outcomes, 'JOB_PAUSED', 'EXECUTION_CHANGED');
        v_outcomes := array_replace(v_outcomes, 'JOB_FULL', 'EXECUTION_CHANGED');
    END IF;

    RETURN QUERY
    SELECT v_outcomes[u.n], v_previous_statuses[u.n], u.job_id, s.device_id, s.status,
           CASE WHEN coalesce(u.with_details, true) THEN s.status_details END,
           s.execution_number, s.queued_at, s.started_at, s.last_updated_at,
           s.version, s.document_type,
           CASE WHEN u.with_document AND v_outcomes[u.n] NOT IN ('BUSY', 'AGAIN')
                THEN s.document_params END,
           s.expires_at, s.times_out_at, s.failure_code
    FROM unnest(v_job_ids, p_device_ids, p_with_documents, p_with_details) WITH ORDINALITY
        AS u (job_id, device_id, with_document, with_details, n)
    LEFT JOIN LATERAL (
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = u.job_id AND s.device_id = u.device_id
        OFFSET 0
    ) s ON true
    ORDER BY u.n;
END $$;
