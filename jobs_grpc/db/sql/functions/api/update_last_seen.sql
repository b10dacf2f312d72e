-- Stores when devices were last seen. Takes ages, because the clocks of servers and database differ.
--
-- Keeps the stored time if the new one is not at least p_min_change seconds later. Leaves out rows that
-- other transactions have locked. Returns whether some devices have no row: see insert_last_seen.
CREATE OR REPLACE FUNCTION jobs.update_last_seen(
    p_tenant_id text,
    p_device_ids text[],           -- no duplicates
    p_ages double precision[],     -- seconds; parallel
    p_min_change double precision  -- seconds
) RETURNS boolean
LANGUAGE plpgsql
-- settings: tenant, lookup, hash join, short lock timeout
AS $$
DECLARE
    v_now timestamptz := jobs.clock_time();
    v_seen_at timestamptz[];
    v_stored_until timestamptz[];  -- an earlier or equal time is replaced
    v_device_ids text[] := p_device_ids;
    v_updated integer;
BEGIN
    SELECT array_agg(v_now - make_interval(secs => a.age) ORDER BY a.n),
           array_agg(v_now - make_interval(secs => a.age + p_min_change) ORDER BY a.n)
    INTO v_seen_at, v_stored_until
    FROM unnest(p_ages) WITH ORDINALITY AS a (age, n);

    LOOP
        BEGIN
            -- The array limits the rows to read; the join adds the times.
            UPDATE jobs.devices d
            SET last_seen_at = s.seen_at
            FROM unnest(p_device_ids, v_seen_at, v_stored_until)
                AS s (device_id, seen_at, stored_until)
            WHERE d.tenant_id = p_tenant_id AND d.device_id = ANY (v_device_ids)
              AND d.device_id = s.device_id
              AND (d.last_seen_at IS NULL OR d.last_seen_at <= s.stored_until);
            GET DIAGNOSTICS v_updated = ROW_COUNT;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            -- Try again with the rows that are free, which this locks. Locking each row the first
            -- time too would double the cost.
            v_device_ids := ARRAY(
                SELECT d.device_id
                FROM unnest(p_device_ids) AS u (device_id)
                CROSS JOIN LATERAL (
                    SELECT d.device_id
                    FROM jobs.devices d
                    WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
                    FOR NO KEY UPDATE SKIP LOCKED
                ) d
            );
        END;
    END LOOP;

    RETURN v_updated < cardinality(p_device_ids) AND (
        SELECT count(*)
        FROM jobs.devices d
        WHERE d.tenant_id = p_tenant_id AND d.device_id = ANY (p_device_ids)
    ) < cardinality(p_device_ids);
END $$;
