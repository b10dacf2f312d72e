-- Stores facts that devices report. Returns the devices whose facts were not stored: those that do not exist, and
-- those that would have more than 32 facts. The first two arrays are parallel, with one element per device.
--
-- Facts that are stored already take no lock and write nothing.
CREATE OR REPLACE FUNCTION jobs.update_facts(
    p_tenant_id text,
    p_device_ids text[],  -- no duplicates
    p_facts text[],       -- JSON objects of at most 32 strings
    p_replace boolean,    -- remove the other facts of the devices. false: they stay
    OUT missing_ids text[],  -- the devices that do not exist
    OUT full_ids text[]      -- the devices that would have too many facts
)
LANGUAGE plpgsql
-- settings: tenant, lookup, nested loops
AS $$
DECLARE
    v_now timestamptz := jobs.clock_time();
    v_changed_ids text[];  -- in the order of device_id
    v_facts text[];        -- parallel
    v_found_ids text[];    -- v_changed_ids before they are locked
    v_keys text[];         -- of the facts that selectors of continuous jobs name
BEGIN
    SELECT coalesce(array_agg(u.device_id) FILTER (WHERE s.is_registered IS NULL), '{}'),
           array_agg(u.device_id ORDER BY u.device_id COLLATE "C") FILTER (WHERE s.is_changed),
           array_agg(u.facts ORDER BY u.device_id COLLATE "C") FILTER (WHERE s.is_changed)
    INTO missing_ids, v_changed_ids, v_facts
    FROM unnest(p_device_ids, p_facts) AS u (device_id, facts)
    LEFT JOIN LATERAL (
        SELECT true AS is_registered,
               CASE WHEN p_replace THEN f.facts <> u.facts::jsonb
                    ELSE NOT f.facts @> u.facts::jsonb END AS is_changed
        FROM public.device_state d
        CROSS JOIN LATERAL (
            SELECT coalesce((
                SELECT f.facts FROM jobs.device_facts f
                WHERE f.tenant_id = p_tenant_id AND f.device_id = u.device_id
            ), '{}') AS facts
        ) f
        WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
        OFFSET 0
    ) s ON true;
    full_ids := '{}';
    IF v_changed_ids IS NULL THEN
        RETURN;
    END IF;

    -- DeleteDevices locks devices before it deletes their facts, so a device that is being deleted gets none.
    -- If the platform manages the device tables, the request role can't lock their rows: maintenance deletes facts
    -- that are stored after the device was deleted.
    IF (SELECT t.is_own FROM jobs.device_tables t) THEN
        v_found_ids := v_changed_ids;
        SELECT coalesce(array_agg(u.device_id), '{}'), array_agg(u.facts) INTO v_changed_ids, v_facts
        FROM unnest(v_changed_ids, v_facts) AS u (device_id, facts)
        CROSS JOIN LATERAL (
            SELECT FROM public.device_state d
            WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
            FOR KEY SHARE
        ) locked;
        missing_ids := missing_ids || ARRAY(
            SELECT * FROM unnest(v_found_ids)
            EXCEPT
            SELECT * FROM unnest(v_changed_ids)
        );
    END IF;

    v_keys := ARRAY(
        SELECT DISTINCT k.key
        FROM jobs.continuous_jobs c
        CROSS JOIN unnest(c.fact_keys) AS k (key)
        WHERE c.tenant_id = p_tenant_id
    );
    IF v_keys <> '{}' THEN
        PERFORM jobs.note_reported_facts(p_tenant_id, v_keys, v_changed_ids, v_facts, p_replace);
    END IF;

    -- In the order of device_id, so that calls can't deadlock. A concurrent call may have changed the facts since
    -- they were read. Two statements, because Citus refuses a parameter in ON CONFLICT.
    IF p_replace THEN
        INSERT INTO jobs.device_facts AS f (tenant_id, device_id, facts, facts_updated_at)
        SELECT p_tenant_id, u.device_id, u.facts::jsonb, v_now
        FROM unnest(v_changed_ids, v_facts) AS u (device_id, facts)
        ORDER BY u.device_id COLLATE "C"
        ON CONFLICT (tenant_id, device_id) DO UPDATE
        SET facts = excluded.facts, facts_updated_at = excluded.facts_updated_at
        WHERE f.facts <> excluded.facts;
        RETURN;
    END IF;
    INSERT INTO jobs.device_facts AS f (tenant_id, device_id, facts, facts_updated_at)
    SELECT p_tenant_id, u.device_id, u.facts::jsonb, v_now
    FROM unnest(v_changed_ids, v_facts) AS u (device_id, facts)
    ORDER BY u.device_id COLLATE "C"
    ON CONFLICT (tenant_id, device_id) DO UPDATE
    SET facts = f.facts || excluded.facts, facts_updated_at = excluded.facts_updated_at
    WHERE NOT f.facts @> excluded.facts
      AND jsonb_array_length(jsonb_path_query_array(f.facts || excluded.facts, '$.*')) <= 32;
    full_ids := ARRAY(
        SELECT u.device_id
        FROM unnest(v_changed_ids, v_facts) AS u (device_id, facts)
        CROSS JOIN LATERAL (
            SELECT f.facts
            FROM jobs.device_facts f
            WHERE f.tenant_id = p_tenant_id AND f.device_id = u.device_id
            OFFSET 0
        ) f
        WHERE NOT f.facts @> u.facts::jsonb
    );
END $$;
