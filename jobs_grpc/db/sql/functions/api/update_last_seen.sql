-- Stores when devices were last seen. Takes ages, because the clocks of servers and database differ.
--
-- Devices that do not exist get no row. Keeps the stored time if the new one is not at least p_min_change
-- seconds later. Skips rows that other transactions have locked.
CREATE OR REPLACE FUNCTION jobs.update_last_seen(
    p_tenant_id text,
    p_device_ids text[],           -- no duplicates
    p_ages double precision[],     -- seconds; parallel
    p_min_change double precision  -- seconds
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops, lock timeout
AS $$
DECLARE
    v_now timestamptz := jobs.clock_time();
    v_seen_at timestamptz[];
    v_stored_until timestamptz[];  -- an earlier or equal time is replaced
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    SELECT array_agg(v_now - make_interval(secs => a.age) ORDER BY a.n),
           array_agg(v_now - make_interval(secs => a.age + p_min_change) ORDER BY a.n)
    INTO v_seen_at, v_stored_until
    FROM unnest(p_ages) WITH ORDINALITY AS a (age, n);

    -- First, and in order: it may wait for calls that insert the same rows, and must hold no lock
    -- that these wait for.
    IF (
        SELECT count(*)
        FROM jobs.devices d
        WHERE d.tenant_id = p_tenant_id AND d.device_id = ANY (p_device_ids)
    ) < cardinality(p_device_ids) THEN
        INSERT INTO jobs.devices AS d (tenant_id, device_id, last_seen_at)
        SELECT p_tenant_id, s.device_id, s.seen_at
        FROM unnest(p_device_ids, v_seen_at) AS s (device_id, seen_at)
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
    END IF;

    -- Leaves out rows that have changed since this statement began, as if they were locked.
    UPDATE jobs.devices d
    SET last_seen_at = s.seen_at
    FROM (
        SELECT d.row_id, s.seen_at
        FROM unnest(p_device_ids, v_seen_at, v_stored_until)
            AS s (device_id, seen_at, stored_until)
        CROSS JOIN LATERAL (
            SELECT d.ctid AS row_id
            FROM jobs.devices d
            WHERE d.tenant_id = p_tenant_id AND d.device_id = s.device_id
              AND (d.last_seen_at IS NULL OR d.last_seen_at <= s.stored_until)
            FOR NO KEY UPDATE SKIP LOCKED
        ) d
    ) s
    WHERE d.tenant_id = p_tenant_id AND d.ctid = s.row_id;
END $$;
