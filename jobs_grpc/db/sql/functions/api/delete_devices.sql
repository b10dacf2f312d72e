-- depends on: queued_status_at
-- Deletes devices with their group memberships and labels, then ends their QUEUED and HELD executions as
-- REJECTED, at most p_max_executions of them: remaining says whether there are more. Executions
-- that are IN_PROGRESS stay, and their devices can report. Ignores devices that do not exist, so a
-- repeated call ends the executions that are left, also those of jobs that were created meanwhile.
--
-- Waits up to p_wait_ms for each job lock, then raises lock_not_available (SQLSTATE 55P03). Raises
-- DEVICES_READ_ONLY if the platform manages the device tables.
CREATE OR REPLACE FUNCTION jobs.delete_devices(
    p_tenant_id text,
    p_device_ids text[],  -- no duplicates
    p_max_executions integer,
    p_wait_ms integer,
    p_user_id text DEFAULT NULL,  -- NULL: unknown
    OUT deleted_count integer,
    OUT ended_count integer,
    OUT remaining boolean
)
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    v_locked_ids text[];
    v_now timestamptz;
    v_job_id text;
    v_job_ids text[];     -- the executions to end: the first two arrays are parallel
    v_device_ids text[];
    v_ended_job_ids text[];  -- the ended executions: also parallel
    v_ended_stages smallint[];
    v_ended_retries integer[];  -- 1 if it was retrying
    v_attempts jobs.finished_attempt[];  -- of jobs with execution_events; NULL: none
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF NOT (SELECT t.is_own FROM jobs.device_tables t) THEN
        PERFORM jobs.raise_error('DEVICES_READ_ONLY');
    END IF;

    -- UpdateDevices locks in the same order: by device, and in jobs.devices before groups.
    p_device_ids := ARRAY(
        SELECT u.device_id FROM unnest(p_device_ids) AS u (device_id) ORDER BY u.device_id COLLATE "C"
    );
    -- Devices that are registered from now on stay: they are not locked.
    v_locked_ids := jobs.lock_devices(p_tenant_id, p_device_ids);
    DELETE FROM public.device_state d
    USING (
        SELECT d.row_id
        FROM unnest(v_locked_ids) AS u (device_id)
        CROSS JOIN LATERAL (
            SELECT d.ctid AS row_id
            FROM public.device_state d
            WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
            OFFSET 0
        ) d
    ) gone
    WHERE d.tenant_id = p_tenant_id AND d.ctid = gone.row_id;
    GET DIAGNOSTICS deleted_count = ROW_COUNT;

    -- Also those of devices that were not registered.
    DELETE FROM jobs.devices d
    USING (
        SELECT d.row_id
        FROM unnest(p_device_ids) AS u (device_id)
        CROSS JOIN LATERAL (
            SELECT d.ctid AS row_id
            FROM jobs.devices d
            WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
            OFFSET 0
        ) d
        LEFT JOIN LATERAL (
            SELECT true AS is_registered
            FROM public.device_state s
            WHERE s.tenant_id = p_tenant_id AND s.device_id = u.device_id
            OFFSET 0
        ) s ON true
        WHERE s.is_registered IS NULL
    ) gone
    WHERE d.tenant_id = p_tenant_id AND d.ctid = gone.row_id;
    DELETE FROM public.device_group_members m
    USING (
        SELECT m.row_id
        FROM unnest(p_device_ids) AS u (device_id)
        CROSS JOIN LATERAL (
            SELECT m.ctid AS row_id
            FROM public.device_group_members m
            WHERE m.tenant_id = p_tenant_id AND m.device_id = u.device_id
            OFFSET 0
        ) m
        LEFT JOIN LATERAL (
            SELECT true AS is_registered
            FROM public.device_state s
            WHERE s.tenant_id = p_tenant_id AND s.device_id = u.device_id
            OFFSET 0
        ) s ON true
        WHERE s.is_registered IS NULL
    ) gone
    WHERE m.tenant_id = p_tenant_id AND m.ctid = gone.row_id;

    -- One more than may end, to know whether more remain.
    SELECT array_agg(e.job_id), array_agg(e.device_id) INTO v_job_ids, v_device_ids
    FROM jobs.queued_executions(p_tenant_id, p_device_ids, p_max_executions + 1) e;
    remaining := coalesce(cardinality(v_job_ids) > p_max_executions, false);
    ended_count := 0;
    IF v_job_ids IS NULL THEN
        PERFORM jobs.change_device_count(p_tenant_id, -deleted_count);
        RETURN;
    END IF;
    v_job_ids := v_job_ids[:p_max_executions];
    v_device_ids := v_device_ids[:p_max_executions];

    PERFORM jobs.lock_jobs(p_tenant_id, v_job_ids, p_wait_ms);
    v_now := jobs.clock_time();
    PERFORM jobs.set_read_time(v_now);

    -- Read again under the job locks: a device may have started, and a job may have ended.
    WITH updated AS (
        UPDATE jobs.job_executions e
        -- canceled_by_operator is also set for a removed device, so that its own late report of REJECTED is
        -- rejected instead of counting as repeated.
        SET status = 'REJECTED', canceled_by_operator = true, end_cause = 'DEVICE_REMOVED',
            status_details = '{"reason": "device removed"}', version = e.version + 1,
            last_updated_at = v_now
        FROM (
            SELECT e.row_id, j.execution_events
            FROM unnest(v_job_ids, v_device_ids) AS u (job_id, device_id)
            CROSS JOIN LATERAL (
                SELECT e.ctid AS row_id, e.status
                FROM jobs.job_executions e
                WHERE e.tenant_id = p_tenant_id AND e.job_id = u.job_id AND e.device_id = u.device_id
                OFFSET 0
            ) e
            CROSS JOIN LATERAL (
                SELECT j.canceled_at, j.expires_at, j.deleted_at, j.execution_events
                FROM jobs.jobs j
                WHERE j.tenant_id = p_tenant_id AND j.job_id = u.job_id
                OFFSET 0
            ) j
            WHERE e.status = 'QUEUED' AND j.deleted_at IS NULL
              AND jobs.queued_status_at(j.canceled_at, j.expires_at, v_now) = 'QUEUED'
        ) queued
        WHERE e.tenant_id = p_tenant_id AND e.ctid = queued.row_id
        RETURNING e.job_id, e.device_id, e.execution_number, e.stage, e.failed_at,
                  queued.execution_events
    )
    SELECT count(*), array_agg(u.job_id), array_agg(u.stage),
           array_agg((u.failed_at IS NOT NULL)::integer),
           array_agg(
               ROW(u.job_id, u.device_id, 'REJECTED', '', u.execution_number)::jobs.finished_attempt
           ) FILTER (WHERE u.execution_events)
    INTO ended_count, v_ended_job_ids, v_ended_stages, v_ended_retries, v_attempts
    FROM updated u;
    IF ended_count = 0 THEN
        PERFORM jobs.change_device_count(p_tenant_id, -deleted_count);
        RETURN;
    END IF;

    UPDATE jobs.job_progress p
    SET queued = p.queued - c.executions, rejected = p.rejected + c.executions
    FROM (
        SELECT p.row_id, u.executions
        FROM (
            SELECT u.job_id, count(*)::integer AS executions
            FROM unnest(v_ended_job_ids) AS u (job_id)
            GROUP BY u.job_id
        ) u
        CROSS JOIN LATERAL (
            SELECT p.ctid AS row_id
            FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = u.job_id
            OFFSET 0
        ) p
    ) c
    WHERE p.tenant_id = p_tenant_id AND p.ctid = c.row_id;
    PERFORM jobs.count_stage_changes(
        p_tenant_id, v_ended_job_ids, v_ended_stages,
        array_fill('QUEUED'::jobs.execution_status, ARRAY[ended_count]),
        array_fill('REJECTED'::jobs.execution_status, ARRAY[ended_count])
    );

    IF 1 = ANY (v_ended_retries) THEN
        PERFORM jobs.change_retrying_counts(
            p_tenant_id, array_agg(u.job_id), array_agg(u.stage), array_agg(-u.retrying),
            array_agg(0)
        )
        FROM unnest(v_ended_job_ids, v_ended_stages, v_ended_retries)
            AS u (job_id, stage, retrying);
    END IF;

    IF v_attempts IS NOT NULL THEN
        PERFORM jobs.add_finished_events(p_tenant_id, v_attempts, false, v_now, p_user_id);
    END IF;
    v_ended_job_ids := ARRAY(SELECT DISTINCT u.job_id FROM unnest(v_ended_job_ids) AS u (job_id));
    PERFORM jobs.complete_finished_jobs(p_tenant_id, v_ended_job_ids, v_now, p_user_id);
    FOREACH v_job_id IN ARRAY v_ended_job_ids LOOP
        PERFORM jobs.apply_rollout_rules(p_tenant_id, v_job_id, v_now);
    END LOOP;
    PERFORM jobs.change_device_count(p_tenant_id, -deleted_count);
END $$;
