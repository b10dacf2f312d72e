-- Deletes devices with their group memberships, labels and facts, then ends their QUEUED and HELD executions as
-- REJECTED, at most p_max_executions of them: has_more says whether there are more. Executions
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
    OUT has_more boolean
)
LANGUAGE plpgsql
-- settings: tenant, lookup, nested loops
AS $$
DECLARE
    v_locked_ids text[];
    v_now timestamptz;
    v_job_ids text[];     -- the executions to end: the two arrays are parallel
    v_device_ids text[];
    v_changes jobs.execution_change[];
BEGIN
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
    PERFORM jobs.delete_stale_rows(p_tenant_id, p_device_ids);
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
    has_more := coalesce(cardinality(v_job_ids) > p_max_executions, false);
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
    v_changes := jobs.removed_device_changes(p_tenant_id, v_job_ids, v_device_ids, v_now);
    IF v_changes IS NOT NULL THEN
        ended_count := cardinality(v_changes);
        PERFORM jobs.change_executions(p_tenant_id, v_changes, v_now, p_user_id);
    END IF;
    PERFORM jobs.change_device_count(p_tenant_id, -deleted_count);
END $$;
