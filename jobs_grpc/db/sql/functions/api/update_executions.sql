-- Applies what devices say of their executions: starts and reports. Completes the jobs that
-- are done with them. The arrays are parallel, an element an update; no device may occur
-- twice. Answers a row an update, in order: its outcome, the status that it met, the job that
-- it was about, and the execution after it. (The last is as of the statement's start: a job
-- that expired while this waited for its mutex does not show there.) The outcome is one of
-- update_outcome, or
--
-- NONE   there is no next execution
-- AGAIN  it was no longer the next one when its job was had; there may be another
-- BUSY   somebody else has the job, and p_wait_ms is 0; or it has only just been created
--
-- SQLSTATE 55P03 if it has waited in vain.
--
-- Locks are had in key order, so that who waits for several never waits in a circle. One
-- statement locks them all, and a job that it did not lock is not touched.
CREATE OR REPLACE FUNCTION jobs.update_executions(
    p_tenant_id text,
    p_wait_ms integer,              -- for jobs that somebody else has; 0: not at all
    p_job_ids text[],               -- NULL: the device's next
    p_next boolean[],               -- the job was, or is to be, chosen as the device's next
    p_device_ids text[],
    p_statuses text[],              -- NULL: start it
    p_status_details text[],        -- JSON; NULL: what is stored is kept
    p_execution_numbers integer[],  -- NULL: the present attempt
    p_expected_versions integer[],  -- NULL: any
    p_extend_timeout_minutes integer[],  -- with IN_PROGRESS only; NULL: as before
    p_with_documents boolean[]      -- whether the answer is to have them
) RETURNS TABLE (
    outcome text,
    met_status text,
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
    times_out_at timestamptz
)
LANGUAGE plpgsql
-- A batch is a few rows of a job that may have a million. They are found one by one by an
-- index, whatever the statistics say or do not say yet: hence OFFSET 0, which keeps a
-- sub-select apart, and the rows' places (nobody moves them: we have the mutex). So one plan
-- does for any arguments, and to plan takes longer than to apply a few updates.
SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    v_job_ids text[] := p_job_ids;
    v_locked text[];
    v_outcomes text[];
    v_met_statuses text[];
    v_changed_jobs text[];
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF true = ANY (p_next) THEN
        SELECT array_agg(
            CASE WHEN u.next AND u.job_id IS NULL
                 THEN jobs.next_execution(p_tenant_id, u.device_id) ELSE u.job_id END
            ORDER BY u.n
        )
        INTO v_job_ids
        FROM unnest(p_job_ids, p_next, p_device_ids) WITH ORDINALITY
            AS u (job_id, next, device_id, n);
    END IF;

    IF p_wait_ms > 0 THEN
        PERFORM set_config('lock_timeout', p_wait_ms::text, true);
        SELECT coalesce(array_agg(l.job_id), '{}') INTO v_locked
        FROM (
            SELECT p.job_id
            FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = ANY (v_job_ids)
            ORDER BY p.job_id
            FOR UPDATE
        ) l;
    ELSE
        SELECT coalesce(array_agg(l.job_id), '{}') INTO v_locked
        FROM (
            SELECT p.job_id
            FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = ANY (v_job_ids)
            ORDER BY p.job_id
            FOR UPDATE SKIP LOCKED
        ) l;
    END IF;
    v_now := clock_timestamp();

    WITH given AS (
        SELECT u.n, u.job_id, u.next, u.device_id, u.status::jobs.execution_status AS status,
               u.status_details::jsonb AS status_details, u.execution_number, u.expected_version,
               make_interval(mins => u.extend_timeout_minutes) AS extension
        FROM unnest(v_job_ids, p_next, p_device_ids, p_statuses, p_status_details,
                    p_execution_numbers, p_expected_versions, p_extend_timeout_minutes)
            WITH ORDINALITY
            AS u (job_id, next, device_id, status, status_details, execution_number,
                  expected_version, extend_timeout_minutes, n)
    ), met AS (
        SELECT u.*, j.job_id IS NOT NULL AND j.job_id <> ALL (v_locked) AS busy,
               e.ctid AS place, e.status AS stored_status, a.status AS met_status,
               make_interval(mins => j.in_progress_timeout_minutes) AS timeout,
               jobs.update_outcome(
                   a.status,
                   e.status_details, e.execution_number, e.version,
                   e.canceled_by_operator OR a.status <> e.status,
                   u.status, u.status_details, u.execution_number, u.expected_version
               ) AS outcome
        FROM given u
        LEFT JOIN LATERAL (
            SELECT j.*
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = u.job_id AND j.deleted_at IS NULL
            OFFSET 0
        ) j ON true
        LEFT JOIN LATERAL (
            SELECT e.ctid, e.status, e.status_details, e.execution_number, e.version, e.canceled_by_operator
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = j.job_id AND e.device_id = u.device_id
            OFFSET 0
        ) e ON true
        CROSS JOIN LATERAL (
            SELECT jobs.execution_status_at(
                e.status, j.canceled_at, j.force_canceled, j.expires_at, v_now
            ) AS status
        ) a
    ), decided AS (
        SELECT m.n, m.job_id, m.status, m.status_details, m.extension,
               m.place, m.stored_status, m.met_status, m.timeout,
               CASE
                   WHEN m.busy THEN 'BUSY'
                   WHEN m.next AND m.job_id IS NULL THEN 'NONE'
                   WHEN m.next AND (
                       m.outcome NOT IN ('APPLIED', 'REPEATED')
                       OR m.job_id IS DISTINCT FROM jobs.next_execution(p_tenant_id, m.device_id)
                   ) THEN 'AGAIN'
                   ELSE m.outcome
               END AS outcome
        FROM met m
    ), changed AS (
        UPDATE jobs.job_executions e
        SET status = coalesce(d.status, 'IN_PROGRESS'),
            status_details = coalesce(d.status_details, e.status_details),
            version = e.version + 1,
            started_at = CASE WHEN coalesce(d.status, 'IN_PROGRESS') = 'IN_PROGRESS'
                              THEN coalesce(e.started_at, v_now) ELSE e.started_at END,
            times_out_at = CASE WHEN d.status <> 'IN_PROGRESS' THEN NULL
                                WHEN d.extension IS NOT NULL THEN v_now + d.extension
                                WHEN e.status = 'QUEUED' THEN v_now + d.timeout
                                ELSE e.times_out_at END,
            last_updated_at = v_now
        FROM decided d
        WHERE d.outcome = 'APPLIED'
          AND e.tenant_id = p_tenant_id AND e.ctid = d.place
        RETURNING e.job_id, d.stored_status AS before, e.status AS after
    ), moved AS (
        SELECT c.job_id,
               count(*) FILTER (WHERE c.before = 'QUEUED') AS left_queued,
               count(*) FILTER (WHERE c.before = 'IN_PROGRESS') AS left_in_progress,
               count(*) FILTER (WHERE c.after = 'IN_PROGRESS') AS in_progress,
               count(*) FILTER (WHERE c.after = 'SUCCEEDED') AS succeeded,
               count(*) FILTER (WHERE c.after = 'FAILED') AS failed,
               count(*) FILTER (WHERE c.after = 'REJECTED') AS rejected
        FROM changed c
        GROUP BY c.job_id
    ), counted AS (
        UPDATE jobs.job_progress p
        SET queued = p.queued - m.left_queued,
            in_progress = p.in_progress - m.left_in_progress + m.in_progress,
            succeeded = p.succeeded + m.succeeded,
            failed = p.failed + m.failed,
            rejected = p.rejected + m.rejected
        FROM moved m
        WHERE p.tenant_id = p_tenant_id AND p.job_id = m.job_id
    )
    SELECT array_agg(d.outcome ORDER BY d.n), array_agg(d.met_status::text ORDER BY d.n),
           array_agg(DISTINCT d.job_id) FILTER (WHERE d.outcome = 'APPLIED')
    INTO v_outcomes, v_met_statuses, v_changed_jobs
    FROM decided d;

    PERFORM jobs.complete_jobs(p_tenant_id, v_changed_jobs, v_now);

    RETURN QUERY
    SELECT v_outcomes[u.n], v_met_statuses[u.n], u.job_id, s.device_id, s.status,
           s.status_details, s.execution_number, s.queued_at, s.started_at, s.last_updated_at,
           s.version, s.document_type,
           CASE WHEN u.with_document AND v_outcomes[u.n] NOT IN ('BUSY', 'AGAIN')
                THEN s.document_params END,
           s.expires_at, s.times_out_at
    FROM unnest(v_job_ids, p_device_ids, p_with_documents) WITH ORDINALITY
        AS u (job_id, device_id, with_document, n)
    LEFT JOIN LATERAL (
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = u.job_id AND s.device_id = u.device_id
        OFFSET 0
    ) s ON true
    ORDER BY u.n;
END $$;
