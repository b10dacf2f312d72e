-- Changes labels, time zones and groups of devices: all or nothing. Returns how many devices it
-- registered, and how many existed before. The first arrays are parallel, with one element per device.
--
-- Raises DEVICES_NOT_FOUND (unless p_allow_missing), TOO_MANY_LABELS, DOT_SEGMENT for an ID to register,
-- TOO_MANY_DEVICES, and, if the platform manages the device tables, DEVICES_READ_ONLY for a device to register and for
-- groups.
CREATE OR REPLACE FUNCTION jobs.update_devices(
    p_tenant_id text,
    p_device_ids text[],     -- no duplicates
    p_labels text[],         -- JSON objects: labels to set; others stay. NULL: none to set
    p_time_zones text[],     -- '': clears it. NULL: all stay
    p_group_ids text[],      -- JSON arrays: the groups of the device from now on. NULL: they stay
    p_remove_labels text[],  -- keys, for all devices
    p_allow_missing boolean, -- register the devices that do not exist
    p_max_devices integer DEFAULT NULL,  -- of the tenant; NULL: no limit
    OUT registered_count integer,
    OUT updated_count integer
)
LANGUAGE plpgsql
-- settings: tenant, lookup, nested loops
AS $$
DECLARE
    v_is_own boolean;
    v_has_continuous_jobs boolean;
    v_sets_time_zone boolean := p_time_zones IS NOT NULL;
    v_device_id text;
    v_missing text[];
    v_changed_ids text[] := '{}';  -- may have duplicates
    v_device_count bigint;
    v_index bigint;
BEGIN
    -- A job that is created from now on looks at all devices again when this call has ended.
    SELECT t.is_own, EXISTS (SELECT FROM jobs.continuous_jobs c WHERE c.tenant_id = p_tenant_id)
    INTO v_is_own, v_has_continuous_jobs
    FROM jobs.device_tables t;
    IF p_group_ids IS NOT NULL AND NOT v_is_own THEN
        PERFORM jobs.raise_error('DEVICES_READ_ONLY');
    END IF;

    -- Calls that change or remove the same devices wait here, so their further locks can't deadlock.
    -- The request role may not lock rows of the platform.
    registered_count := 0;
    IF v_is_own AND p_allow_missing THEN
        -- A call that the limit refuses should write nothing that it then rolls back. This reads without
        -- locks, so the check at the end decides. First the count: the devices of a call that commits
        -- between both statements are not counted twice.
        SELECT c.device_count INTO v_device_count
        FROM jobs.device_counts c
        WHERE c.tenant_id = p_tenant_id;
        IF v_device_count + cardinality(p_device_ids) > p_max_devices THEN
            v_missing := jobs.missing_devices(p_tenant_id, p_device_ids);
            IF v_device_count + cardinality(v_missing) > p_max_devices THEN
                PERFORM jobs.raise_error('TOO_MANY_DEVICES');
            END IF;
        END IF;
        -- Changes no row but locks it, also if another call registers the device at the same time.
        -- Counts the rows that it returns: on Citus, ROW_COUNT includes those that existed.
        FOR v_device_id IN
            INSERT INTO public.device_state (tenant_id, device_id)
            SELECT p_tenant_id, u.device_id
            FROM unnest(p_device_ids) AS u (device_id)
            ORDER BY u.device_id COLLATE "C"
            ON CONFLICT (tenant_id, device_id) DO UPDATE SET device_id = excluded.device_id WHERE false
            RETURNING device_id
        LOOP
            IF jobs.has_dot_segment(v_device_id) THEN
                PERFORM jobs.raise_error(
                    'DOT_SEGMENT', (array_position(p_device_ids, v_device_id) - 1)::text
                );
            END IF;
            v_changed_ids := array_append(v_changed_ids, v_device_id);
        END LOOP;
        registered_count := cardinality(v_changed_ids);
    ELSIF v_is_own THEN
        -- A device that is registered from now on is missing: it is not locked.
        PERFORM jobs.check_device_list(p_device_ids, jobs.lock_devices(p_tenant_id, p_device_ids));
    ELSE
        v_missing := jobs.missing_devices(p_tenant_id, p_device_ids);
        IF v_missing IS NOT NULL AND p_allow_missing THEN
            PERFORM jobs.raise_error('DEVICES_READ_ONLY');
        END IF;
        PERFORM jobs.check_device_list(v_missing, '{}');
    END IF;
    updated_count := cardinality(p_device_ids) - registered_count;

    IF p_labels IS NOT NULL OR p_time_zones IS NOT NULL OR p_remove_labels <> '{}' THEN
        -- Inserts the missing rows and locks the others, in the order of device_id. Does not change them,
        -- because Citus refuses variables in ON CONFLICT.
        FOR v_device_id IN
            INSERT INTO jobs.devices (tenant_id, device_id, labels, time_zone)
            SELECT p_tenant_id, u.device_id, coalesce(u.labels::jsonb, '{}'), nullif(u.time_zone, '')
            FROM unnest(p_device_ids, p_labels, p_time_zones) AS u (device_id, labels, time_zone)
            ORDER BY u.device_id COLLATE "C"
            ON CONFLICT (tenant_id, device_id) DO UPDATE SET device_id = excluded.device_id WHERE false
            RETURNING device_id
        LOOP
            v_changed_ids := array_append(v_changed_ids, v_device_id);
        END LOOP;
        FOR v_device_id IN
            UPDATE jobs.devices d
            SET labels = new.labels, time_zone = new.time_zone
            FROM (
                SELECT d.row_id, (d.labels || coalesce(u.labels::jsonb, '{}')) - p_remove_labels AS labels,
                       CASE WHEN v_sets_time_zone THEN nullif(u.time_zone, '') ELSE d.time_zone END
                           AS time_zone
                FROM unnest(p_device_ids, p_labels, p_time_zones) AS u (device_id, labels, time_zone)
                CROSS JOIN LATERAL (
                    SELECT d.ctid AS row_id, d.labels, d.time_zone
                    FROM jobs.devices d
                    WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
                    OFFSET 0
                ) d
            ) new
            WHERE d.tenant_id = p_tenant_id AND d.ctid = new.row_id
              AND (d.labels, d.time_zone) IS DISTINCT FROM (new.labels, new.time_zone)
            RETURNING d.device_id
        LOOP
            v_changed_ids := array_append(v_changed_ids, v_device_id);
        END LOOP;
    END IF;
    IF p_labels IS NOT NULL THEN
        SELECT u.n - 1 INTO v_index
        FROM unnest(p_device_ids) WITH ORDINALITY AS u (device_id, n)
        CROSS JOIN LATERAL (
            SELECT d.labels
            FROM jobs.devices d
            WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
            OFFSET 0
        ) d
        WHERE (SELECT count(*) FROM jsonb_object_keys(d.labels)) > 32
        ORDER BY u.n
        LIMIT 1;
        IF v_index IS NOT NULL THEN
            PERFORM jobs.raise_error('TOO_MANY_LABELS', v_index::text);
        END IF;
    END IF;

    IF p_group_ids IS NOT NULL THEN
        FOR v_device_id IN
            DELETE FROM public.device_group_members m
            USING (
                SELECT m.row_id
                FROM (
                    SELECT u.device_id, u.group_ids
                    FROM unnest(p_device_ids, p_group_ids) AS u (device_id, group_ids)
                    ORDER BY u.device_id COLLATE "C"
                ) u
                CROSS JOIN LATERAL (
                    SELECT m.ctid AS row_id, m.group_id
                    FROM public.device_group_members m
                    WHERE m.tenant_id = p_tenant_id AND m.device_id = u.device_id
                    OFFSET 0
                ) m
                WHERE NOT u.group_ids::jsonb ? m.group_id
            ) gone
            WHERE m.tenant_id = p_tenant_id AND m.ctid = gone.row_id
            RETURNING m.device_id
        LOOP
            v_changed_ids := array_append(v_changed_ids, v_device_id);
        END LOOP;

        FOR v_device_id IN
            INSERT INTO public.device_group_members (tenant_id, group_id, device_id)
            SELECT p_tenant_id, g.group_id, u.device_id
            FROM unnest(p_device_ids, p_group_ids) AS u (device_id, group_ids)
            CROSS JOIN LATERAL jsonb_array_elements_text(u.group_ids::jsonb) AS g (group_id)
            ORDER BY u.device_id COLLATE "C"
            ON CONFLICT DO NOTHING
            RETURNING device_id
        LOOP
            v_changed_ids := array_append(v_changed_ids, v_device_id);
        END LOOP;
    END IF;

    IF v_has_continuous_jobs AND v_changed_ids <> '{}' THEN
        v_changed_ids := ARRAY(SELECT DISTINCT u.device_id FROM unnest(v_changed_ids) AS u (device_id));
        INSERT INTO jobs.device_changes (tenant_id, noted_at, device_ids, device_count)
        VALUES (p_tenant_id, jobs.now(), v_changed_ids, cardinality(v_changed_ids));
    END IF;

    IF jobs.change_device_count(p_tenant_id, registered_count) > p_max_devices THEN
        PERFORM jobs.raise_error('TOO_MANY_DEVICES');
    END IF;
END $$;
