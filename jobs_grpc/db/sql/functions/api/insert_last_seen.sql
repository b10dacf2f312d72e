-- Inserts when devices without a row in jobs.devices were last seen. Devices that do not exist get no row.
--
-- Not part of update_last_seen: this function can wait for a call that inserts the same rows, so it must not
-- hold row locks, for which that call could wait.
CREATE OR REPLACE FUNCTION jobs.insert_last_seen(
    p_tenant_id text,
    p_device_ids text[],        -- no duplicates
    p_ages double precision[]   -- seconds; parallel
) RETURNS void
LANGUAGE plpgsql
-- settings: tenant, lookup, nested loops, lock timeout
AS $$
DECLARE
    v_now timestamptz := jobs.clock_time();
BEGIN
    INSERT INTO jobs.devices AS d (tenant_id, device_id, last_seen_at)
    SELECT p_tenant_id, s.device_id, v_now - make_interval(secs => s.age)
    FROM unnest(p_device_ids, p_ages) AS s (device_id, age)
    LEFT JOIN LATERAL (
        SELECT true AS has_row
        FROM jobs.devices d
        WHERE d.tenant_id = p_tenant_id AND d.device_id = s.device_id
        OFFSET 0
    ) d ON true
    CROSS JOIN LATERAL (
        SELECT FROM public.device_state ds
        WHERE ds.tenant_id = p_tenant_id AND ds.device_id = s.device_id
        OFFSET 0
    ) ds
    WHERE d.has_row IS NULL
    ORDER BY s.device_id COLLATE "C"
    ON CONFLICT (tenant_id, device_id) DO UPDATE
    SET last_seen_at = greatest(d.last_seen_at, excluded.last_seen_at);
END $$;
