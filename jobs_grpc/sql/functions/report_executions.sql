-- Applies reports of devices, and completes the jobs that are done with them. The arrays
-- are parallel, an element a report; no execution may occur twice. Answers a row a report,
-- in order: its outcome (see report_outcome), the status that it met, and the execution
-- after it. (The last is as of the statement's start: a job that expired while this waited
-- for its mutex does not show there.)
CREATE OR REPLACE FUNCTION jobs.report_executions(
    p_tenant_id text,
    p_job_ids text[],
    p_device_ids text[],
    p_statuses text[],
    p_status_details text[],        -- JSON; NULL: what is stored is kept
    p_execution_numbers integer[],  -- NULL: the present attempt
    p_expected_versions integer[],  -- NULL: any
    p_extend_timeout_minutes integer[]  -- with IN_PROGRESS only; NULL: as before
) RETURNS TABLE (
    outcome text,
    met_status text,
    tenant_id text,
    job_id text,
    device_id text,
    status text,
    status_details jsonb,
    execution_number integer,
    queued_at timestamptz,
    started_at timestamptz,
    last_updated_at timestamptz,
    version integer,
    stored_pending boolean,
    document_type text,
    document_params jsonb,
    expires_at timestamptz,
    times_out_at timestamptz
)
LANGUAGE plpgsql
-- A batch is a few rows of a job that may have a million. They are found one by one by the
-- primary key, whatever the statistics say or do not say yet: hence OFFSET 0, which keeps a
-- sub-select apart, and the rows' places (nobody moves them: we have the mutex).
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    v_outcomes text[];
    v_met_statuses text[];
    v_changed_jobs text[];
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    -- In key order, so that batches that overlap wait for each other, never in a circle.
    PERFORM FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = ANY (p_job_ids)
    ORDER BY p.job_id
    FOR UPDATE;
    v_now := clock_timestamp();

    WITH report AS (
        SELECT r.n, r.job_id, r.device_id, r.status::jobs.execution_status AS status,
               r.status_details::jsonb AS status_details, r.execution_number, r.expected_version,
               make_interval(mins => r.extend_timeout_minutes) AS extension
        FROM unnest(p_job_ids, p_device_ids, p_statuses, p_status_details, p_execution_numbers,
                    p_expected_versions, p_extend_timeout_minutes) WITH ORDINALITY
            AS r (job_id, device_id, status, status_details, execution_number,
                  expected_version, extend_timeout_minutes, n)
    ), decided AS (
        SELECT r.*, e.ctid AS place, e.status AS stored_status, a.status AS met_status,
               make_interval(mins => j.in_progress_timeout_minutes) AS timeout,
               jobs.report_outcome(
                   a.status,
                   CASE WHEN a.status = e.status THEN e.status_details
                        ELSE jobs.execution_end_details(a.status, j.cancel_reason) END,
                   e.execution_number, e.version,
                   r.status, r.status_details, r.execution_number, r.expected_version
               ) AS outcome
        FROM report r
        LEFT JOIN jobs.jobs j
            ON j.tenant_id = p_tenant_id AND j.job_id = r.job_id AND j.deleted_at IS NULL
        LEFT JOIN LATERAL (
            SELECT e.ctid, e.status, e.status_details, e.execution_number, e.version
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = j.job_id AND e.device_id = r.device_id
            OFFSET 0
        ) e ON true
        CROSS JOIN LATERAL (
            SELECT jobs.execution_status_at(
                e.status, j.canceled_at, j.canceled_running, j.expires_at, v_now
            ) AS status
        ) a
    ), changed AS (
        UPDATE jobs.job_executions e
        SET status = d.status,
            status_details = coalesce(d.status_details, e.status_details),
            version = e.version + 1,
            started_at = CASE WHEN d.status = 'IN_PROGRESS'
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
    SELECT v_outcomes[r.n], v_met_statuses[r.n], s.*
    FROM unnest(p_job_ids, p_device_ids) WITH ORDINALITY AS r (job_id, device_id, n)
    LEFT JOIN LATERAL (
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = r.job_id AND s.device_id = r.device_id
        OFFSET 0
    ) s ON true
    ORDER BY r.n;
END $$;
