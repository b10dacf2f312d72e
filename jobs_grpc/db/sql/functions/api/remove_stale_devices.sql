-- Removes labels, time zones, times and facts of devices that are gone from the device table, so that a new
-- device with the same id does not get them. Examines the next p_limit devices after p_after_device_id
-- ('': from the start). Returns the device_id to continue after; NULL: nothing is left.
CREATE OR REPLACE FUNCTION jobs.remove_stale_devices(
    p_tenant_id text, p_after_device_id text, p_limit integer
) RETURNS text
LANGUAGE plpgsql
-- settings: tenant, page, nested loops
AS $$
DECLARE
    v_device_ids text[];
    v_stale text[];
BEGIN
    IF NOT (SELECT t.is_own FROM jobs.device_tables t) THEN
        -- Without any device, the platform may just be loading its table again.
        PERFORM FROM public.device_state d
        WHERE d.tenant_id = p_tenant_id
        LIMIT 1;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;

    v_device_ids := ARRAY(
        SELECT d.device_id
        FROM jobs.devices d
        WHERE d.tenant_id = p_tenant_id AND d.device_id > p_after_device_id
        ORDER BY d.device_id
        LIMIT p_limit
    );
    v_device_ids := v_device_ids || ARRAY(
        SELECT f.device_id
        FROM jobs.device_facts f
        WHERE f.tenant_id = p_tenant_id AND f.device_id > p_after_device_id
        ORDER BY f.device_id
        LIMIT p_limit
    );
    v_device_ids := ARRAY(
        SELECT DISTINCT u.device_id COLLATE "C" FROM unnest(v_device_ids) AS u (device_id)
        ORDER BY u.device_id COLLATE "C"
        LIMIT p_limit
    );
    -- Without row locks: most devices exist.
    v_stale := jobs.missing_devices(p_tenant_id, v_device_ids);
    IF v_stale IS NOT NULL THEN
        PERFORM jobs.delete_stale_rows(p_tenant_id, v_stale);
    END IF;

    IF cardinality(v_device_ids) = p_limit THEN
        RETURN v_device_ids[p_limit];
    END IF;
    RETURN NULL;
END $$;
