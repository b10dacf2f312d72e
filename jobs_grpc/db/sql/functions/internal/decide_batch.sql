-- Decides the outcome of each update of a batch, and what it changes if the outcome is APPLIED: see
-- update_executions. Writes nothing. The caller has taken the job locks of p_locked_job_ids and has set the
-- tenant; its planner settings apply here, too.
CREATE OR REPLACE FUNCTION jobs.decide_batch(
    p_tenant_id text,
    p_locked_job_ids text[],
    p_now timestamptz,
    p_positions bigint[],    -- of the updates to decide; NULL: all
    p_defer_starts boolean,  -- true: the starts of jobs with rules have the outcome DEFERRED
    -- The others are as in update_executions.
    p_job_ids text[],
    p_must_be_next boolean[],
    p_device_ids text[],
    p_statuses text[],
    p_status_details text[],
    p_execution_numbers integer[],
    p_expected_versions integer[],
    p_extend_timeout_minutes integer[],
    p_failure_codes text[],
    p_cancels_accepted boolean[],
    /* for each reported FIELD: p_FIELDs TYPE[] */,
    OUT changes jobs.execution_change[],
    OUT has_retry_policies boolean,  -- a job of the batch has a retry policy; NULL: none
    OUT has_rules boolean,           -- a job of the batch has failure criteria or gates; NULL: none
    OUT expired_job_ids text[]       -- the expired jobs of APPLIED updates, with duplicates; NULL: none
)
LANGUAGE plpgsql
AS $$
DECLARE
    v_has_limited_starts boolean;
BEGIN
    -- OFFSET 0: the planner would otherwise copy each expression to every place that uses its value, and preparing
    -- the copies takes half the time of a batch with one update.
    WITH input AS (
        SELECT u.n, u.job_id, u.must_be_next, u.device_id,
               u.status::jobs.execution_status AS status,
               u.status_details::jsonb AS status_details, u.execution_number, u.expected_version,
               p_now + make_interval(mins => u.extend_timeout_minutes) AS extended_until,
               u.failure_code, coalesce(u.cancel_accepted, false) AS cancel_accepted,
               /* for each reported FIELD: u.FIELD */
        FROM unnest(
            p_job_ids, p_must_be_next, p_device_ids, p_statuses, p_status_details,
            p_execution_numbers, p_expected_versions, p_extend_timeout_minutes, p_failure_codes,
            p_cancels_accepted, /* for each reported FIELD: p_FIELDs */
        ) WITH ORDINALITY AS u (
            job_id, must_be_next, device_id, status, status_details, execution_number, expected_version,
            extend_timeout_minutes, failure_code, cancel_accepted, /* for each reported FIELD: FIELD */, n
        )
        WHERE p_positions IS NULL OR u.n = ANY (p_positions)
        OFFSET 0
    ), current AS (
        SELECT u.n, u.job_id, u.must_be_next, u.device_id, u.status_details, /* for each reported FIELD: u.FIELD */,
               CASE WHEN u.status IN ('FAILED', 'REJECTED') AND NOT u.cancel_accepted
                    THEN coalesce(u.failure_code, '') END AS failure_code,
               CASE WHEN u.cancel_accepted THEN 'JOB_CANCELED' END AS end_cause,
               coalesce(u.status, 'IN_PROGRESS') AS new_status,
               j.job_id IS NOT NULL AND j.job_id <> ALL (p_locked_job_ids) AS is_busy,
               j.has_rules, j.has_retry_policy, j.execution_events, j.max_in_progress,
               jobs.is_expired_at(j.expires_at, p_now) AS is_expired,
               derived.status = 'QUEUED' AND coalesce(u.status, 'IN_PROGRESS') = 'IN_PROGRESS'
                   AS is_start,
               e.ctid AS row_id, e.stage, e.status AS stored_status, e.execution_number,
               e.failed_status, e.failed_code, e.failed_at, e.retries, e.time_zone,
               derived.status AS current_status,
               CASE WHEN u.status <> 'IN_PROGRESS' THEN NULL
                    WHEN u.extended_until IS NOT NULL THEN u.extended_until
                    WHEN e.status = 'QUEUED'
                        THEN p_now + make_interval(mins => j.in_progress_timeout_minutes)
                    ELSE e.times_out_at END AS times_out_at,
               jobs.update_outcome(
                   derived.status,
                   e.status_details, e.failure_code, e.execution_number, e.version,
                   finished_without_report => e.canceled_by_operator OR derived.status <> e.status,
                   is_held => derived.status = 'QUEUED' AND jobs.is_held(e.rank, j.released),
                   job_is_paused => j.paused_at IS NOT NULL,
                   is_waiting => jobs.is_waiting_at(
                       e.not_before, j.start_windows,
                       coalesce(j.window_time_zone, e.time_zone, 'UTC'), p_now
                   ),
                   reported_status => u.status, reported_details => u.status_details,
                   reported_failure_code => u.failure_code,
                   cancel_accepted => u.cancel_accepted, job_is_canceled => j.canceled_at IS NOT NULL,
                   -- With a retry policy, a report without a number could be a late one about an earlier
                   -- attempt. After the first attempt, the number of the attempt before makes the outcome
                   -- EXECUTION_CHANGED.
                   expected_number => coalesce(
                       u.execution_number,
                       CASE WHEN j.has_retry_policy AND u.status IS NOT NULL
                                 AND e.execution_number > 1 THEN e.execution_number - 1 END
                   ),
                   expected_version => u.expected_version
               ) AS outcome
        FROM input u
        LEFT JOIN LATERAL (
            SELECT j.job_id, j.canceled_at, j.force_canceled, j.expires_at, j.paused_at,
                   j.in_progress_timeout_minutes, j.max_in_progress,
                   j.open_stage IS NOT NULL OR j.has_failure_criteria AS has_rules,
                   j.retry_policy IS NOT NULL AS has_retry_policy, j.execution_events,
                   jobs.released_count_at(j.release, p_now) AS released,
                   j.start_windows, j.window_time_zone
            FROM jobs.jobs_with_release j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = u.job_id AND j.deleted_at IS NULL
            OFFSET 0
        ) j ON true
        LEFT JOIN LATERAL (
            SELECT e.ctid, e.status, e.status_details, e.execution_number, e.version,
                   e.canceled_by_operator, e.failure_code, e.rank, e.stage, e.times_out_at,
                   e.not_before, e.time_zone, e.failed_status, e.failed_code, e.failed_at, e.retries
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = j.job_id AND e.device_id = u.device_id
            OFFSET 0
        ) e ON true
        CROSS JOIN LATERAL (
            SELECT jobs.execution_status_at(
                e.status, j.canceled_at, j.force_canceled, j.expires_at, p_now
            ) AS status
            OFFSET 0  -- computed once
        ) derived
        OFFSET 0
    )
    SELECT array_agg(jobs.execution_change(
               n => c.n, job_id => c.job_id, device_id => c.device_id, outcome => decided.outcome,
               previous_status => c.current_status, row_id => c.row_id, stage => c.stage,
               execution_number => c.execution_number, stored_status => c.stored_status,
               failed_status => c.failed_status, failed_code => c.failed_code,
               failed_at => c.failed_at, retries => c.retries, time_zone => c.time_zone,
               new_status => c.new_status, status_details => c.status_details,
               failure_code => c.failure_code, times_out_at => c.times_out_at, end_cause => c.end_cause,
               /* for each reported FIELD: FIELD => c.FIELD */,
               is_expired => c.is_expired, has_rules => c.has_rules, execution_events => c.execution_events
           )),
           bool_or(c.has_retry_policy), bool_or(c.has_rules),
           bool_or(c.is_start AND c.max_in_progress IS NOT NULL),
           array_agg(c.job_id) FILTER (WHERE c.is_expired AND decided.outcome = 'APPLIED')
    INTO changes, has_retry_policies, has_rules, v_has_limited_starts, expired_job_ids
    FROM current c
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN c.is_busy THEN 'BUSY'
            WHEN c.must_be_next AND c.job_id IS NULL THEN 'NONE'
            WHEN p_defer_starts AND c.has_rules AND c.is_start THEN 'DEFERRED'
            WHEN c.must_be_next AND (
                c.outcome NOT IN ('APPLIED', 'REPEATED')
                OR c.job_id IS DISTINCT FROM jobs.next_execution(p_tenant_id, c.device_id)
            ) THEN 'AGAIN'
            ELSE c.outcome
        END AS outcome
        OFFSET 0  -- computed once
    ) decided;
    IF v_has_limited_starts THEN
        changes := jobs.limit_starts(p_tenant_id, changes, p_must_be_next);
    END IF;
END $$;
