-- Returns the execution of a device, what keeps the device from starting it now (see StartBlocker), and
-- the facts about it.
--
-- Raises JOB_NOT_FOUND and EXECUTION_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.explain_execution(
    p_tenant_id text, p_job_id text, p_device_id text
) RETURNS TABLE (
    /* for each FIELD: FIELD TYPE */,
    kinds text[],           -- of the blockers, in order
    untils timestamptz[],   -- when each of them ends; NULL: unknown
    earliest_start_at timestamptz,
    last_seen_at timestamptz,
    paused_at timestamptz,  -- this and the next three: of the job
    paused_by text,
    pause_reason text,
    pause_cause text,
    in_progress integer,
    max_in_progress integer,
    other_job_id text,      -- the job that comes first in the queue of the device
    open_stage smallint,    -- this and the next six: see StageGate
    open_stage_executions integer,
    open_stage_succeeded integer,
    open_stage_required integer,
    open_stage_unfinished integer,
    awaiting_approval boolean,
    next_opens_at timestamptz,
    open_stage_percent integer,  -- the min_succeeded_percent of the gate
    open_stage_bake_seconds integer,
    open_stage_name text,       -- the display_name
    needs_start_approval boolean, -- the start of the job is not approved
    joined_at timestamptz       -- NULL: the execution was created with the job
)
LANGUAGE plpgsql STABLE  -- see set_read_time
-- settings: tenant, page
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := jobs.clock_time();
    v_job record;
BEGIN
    PERFORM jobs.set_read_time(v_now);

    SELECT /* for each FIELD: s.FIELD */
    INTO /* for each FIELD: FIELD */
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.device_id = p_device_id;
    IF NOT FOUND THEN
        PERFORM FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
        IF NOT FOUND THEN
            PERFORM jobs.raise_error('JOB_NOT_FOUND');
        END IF;
        PERFORM jobs.raise_error('EXECUTION_NOT_FOUND');
    END IF;
    SELECT d.last_seen_at INTO last_seen_at
    FROM jobs.devices d
    WHERE d.tenant_id = p_tenant_id AND d.device_id = p_device_id;

    SELECT j.created_at INTO v_job
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.joined_count IS NOT NULL;
    IF FOUND THEN
        joined_at := coalesce(
            (SELECT a.queued_at
             FROM jobs.execution_attempts a
             WHERE a.tenant_id = p_tenant_id AND a.job_id = p_job_id AND a.device_id = p_device_id
               AND a.execution_number = 1),
            explain_execution.queued_at
        );
        joined_at := CASE WHEN joined_at > v_job.created_at THEN joined_at END;
    END IF;

    IF status NOT IN ('QUEUED', 'HELD') THEN
        kinds := CASE WHEN status = 'IN_PROGRESS' THEN '{}' ELSE '{FINISHED}' END;
        untils := CASE WHEN status = 'IN_PROGRESS' THEN '{}' ELSE '{NULL}' END;
        RETURN NEXT;
        RETURN;
    END IF;

    SELECT e.queue_order, e.not_before, j.start_windows,
           coalesce(j.window_time_zone, e.time_zone, 'UTC') AS zone, j.start_at, j.expires_at,
           j.paused_at, j.paused_by, j.pause_reason, j.pause_cause, j.max_in_progress,
           j.open_stage, j.awaiting_approval, j.stage_due_at, p.in_progress, j.start_approval,
           jobs.is_held(e.rank, jobs.released_count_at(j.release, v_now)) AS is_held,
           jobs.rank_release_time(e.rank, j.release) AS release_time
    INTO v_job
    FROM jobs.jobs_with_release j
    JOIN jobs.job_progress p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
    JOIN jobs.job_executions e ON e.tenant_id = j.tenant_id AND e.job_id = j.job_id
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND e.device_id = p_device_id;

    IF v_job.paused_at IS NOT NULL THEN
        paused_at := v_job.paused_at;
        paused_by := v_job.paused_by;
        pause_reason := v_job.pause_reason;
        pause_cause := coalesce(v_job.pause_cause, 'OPERATOR');
        needs_start_approval := v_job.start_approval = '{}';
    END IF;
    IF v_job.release_time IS NULL THEN
        open_stage := v_job.open_stage;
        awaiting_approval := v_job.awaiting_approval;
        next_opens_at := CASE WHEN v_job.paused_at IS NULL THEN v_job.stage_due_at END;
        SELECT s.last_rank - s.first_rank + 1, s.succeeded, s.queued + s.in_progress,
               ceil((s.last_rank - s.first_rank + 1) * s.min_succeeded_percent::bigint / 100.0),
               s.min_succeeded_percent, s.bake_seconds, s.display_name
        INTO open_stage_executions, open_stage_succeeded, open_stage_unfinished,
             open_stage_required, open_stage_percent, open_stage_bake_seconds, open_stage_name
        FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = v_job.open_stage;
    END IF;
    IF v_job.in_progress >= v_job.max_in_progress THEN
        in_progress := v_job.in_progress;
        max_in_progress := v_job.max_in_progress;
    END IF;
    -- The same order as in next_execution.
    SELECT q.job_id INTO other_job_id
    FROM jobs.pending_executions q
    WHERE q.tenant_id = p_tenant_id AND q.device_id = p_device_id AND q.has_slot
      AND NOT q.is_waiting
      AND (q.is_queued, q.queue_order, q.queued_at, q.job_id)
          < (true, v_job.queue_order, explain_execution.queued_at, p_job_id)
    ORDER BY q.is_queued, q.queue_order, q.queued_at, q.job_id
    LIMIT 1;

    SELECT coalesce(array_agg(b.kind ORDER BY b.n), '{}'),
           coalesce(array_agg(b.until ORDER BY b.n), '{}')
    INTO kinds, untils
    FROM (
        VALUES
            (1, 'JOB_PAUSED', v_job.paused_at IS NOT NULL, NULL::timestamptz),
            (2, 'JOB_SCHEDULED', v_job.start_at > v_now, v_job.start_at),
            (3, 'STAGE_NOT_OPEN', v_job.release_time IS NULL, NULL),
            (4, 'NOT_RELEASED',
                v_job.is_held AND v_job.release_time > coalesce(v_job.start_at, '-infinity'),
                -- A pause stops the release.
                CASE WHEN v_job.paused_at IS NULL THEN v_job.release_time END),
            (5, 'WINDOW_CLOSED', jobs.is_waiting_at(NULL, v_job.start_windows, v_job.zone, v_now),
                jobs.due_at(NULL, v_job.start_windows, v_job.zone, v_now)),
            (6, 'BACKOFF', v_job.not_before > v_now, v_job.not_before),
            (7, 'JOB_FULL', v_job.in_progress >= v_job.max_in_progress, NULL),
            (8, 'OTHER_JOB_FIRST', other_job_id IS NOT NULL, NULL)
    ) AS b (n, kind, applies, until)
    WHERE b.applies;
    IF kinds = '{}' THEN
        kinds := '{WAITING_FOR_DEVICE}';
        untils := '{NULL}';
    ELSIF array_position(untils, NULL) IS NULL THEN
        earliest_start_at := jobs.due_at(
            v_job.not_before, v_job.start_windows, v_job.zone, greatest(v_now, v_job.release_time)
        );
        IF jobs.is_expired_at(v_job.expires_at, earliest_start_at) THEN
            kinds := kinds || 'EXPIRES_FIRST'::text;
            untils := array_append(untils, NULL);
            earliest_start_at := NULL;
        END IF;
    END IF;
    RETURN NEXT;
END $$;
