-- Ends the QUEUED executions of a range of devices that are gone from the device table as REJECTED, at most p_limit:
-- such a device can't start, and its platform does not call DeleteDevices. Returns how many; p_limit: call it again. If
-- there are none, takes no lock. The caller has set the tenant.
--
-- A tenant without any device keeps them: its platform may just be loading the table again. So do members of the job's
-- group that never were in the device table.
CREATE OR REPLACE FUNCTION jobs.end_removed_devices(
    p_tenant_id text, p_job_id text,
    p_after text,     -- after this device_id
    p_last text,      -- and up to this one; NULL: to the end
    p_limit integer,
    p_wait_ms integer
) RETURNS integer
LANGUAGE plpgsql
-- settings: index, merge join, no parallel query, no jit
AS $$
DECLARE
    -- Beyond the last device_id: it has at most 256 characters.
    v_last text := coalesce(p_last, repeat(chr(1114111), 257));
    v_device_ids text[];
    v_group_id text;
    v_has_more boolean;
    v_changes jobs.execution_change[];
    v_now timestamptz;
BEGIN
    v_device_ids := ARRAY(
        SELECT e.device_id
        FROM jobs.job_executions e
        LEFT JOIN public.device_state d
            ON d.tenant_id = p_tenant_id AND d.device_id COLLATE "C" = e.device_id
           AND d.device_id COLLATE "C" > p_after AND d.device_id COLLATE "C" <= v_last
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id > p_after AND e.device_id <= v_last
          AND e.status = 'QUEUED' AND d.device_id IS NULL
        ORDER BY e.device_id
        LIMIT 10000
    );
    IF v_device_ids = '{}' OR NOT EXISTS (SELECT FROM public.device_state d WHERE d.tenant_id = p_tenant_id) THEN
        RETURN 0;
    END IF;
    SELECT j.target_group_id INTO v_group_id
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_group_id IS NOT NULL THEN
        v_device_ids := ARRAY(
            SELECT u.device_id
            FROM unnest(v_device_ids) AS u (device_id)
            LEFT JOIN LATERAL (
                SELECT true AS is_member
                FROM public.device_group_members m
                WHERE m.tenant_id = p_tenant_id AND m.group_id = v_group_id AND m.device_id = u.device_id
                OFFSET 0
            ) m ON true
            WHERE m.is_member IS NULL
        );
    END IF;
    v_has_more := cardinality(v_device_ids) > p_limit;
    v_device_ids := v_device_ids[:p_limit];
    IF v_device_ids = '{}' OR NOT jobs.lock_job_with_timeout(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN 0;
    END IF;
    v_now := jobs.clock_time();
    PERFORM jobs.set_read_time(v_now);
    -- Read again under the job lock: devices may be back, even all (NULL).
    v_device_ids := jobs.missing_devices(p_tenant_id, v_device_ids);
    v_changes := jobs.removed_device_changes(
        p_tenant_id, array_fill(p_job_id, ARRAY[coalesce(cardinality(v_device_ids), 0)]), v_device_ids, v_now
    );
    IF v_changes IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM jobs.change_executions(p_tenant_id, v_changes, v_now);
    -- Without v_has_more, a device that came back would hide those beyond the limit until the next full scan.
    RETURN CASE WHEN v_has_more THEN p_limit ELSE cardinality(v_changes) END;
END $$;
