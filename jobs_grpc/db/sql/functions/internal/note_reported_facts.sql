-- Notes devices whose report changes a fact that the selector of a continuous job names. The caller has set the tenant.
--
-- Locks the facts: a report that was committed since the caller read them must not hide a change. Inserts the missing
-- rows, in the order in which update_facts writes them, so that calls can't deadlock.
CREATE OR REPLACE FUNCTION jobs.note_reported_facts(
    p_tenant_id text,
    p_keys text[],        -- of the facts that selectors name
    p_device_ids text[],  -- this and the rest: see update_facts
    p_facts text[],
    p_replace boolean
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    v_changed_ids text[];
BEGIN
    INSERT INTO jobs.device_facts (tenant_id, device_id, facts, facts_updated_at)
    SELECT p_tenant_id, u.device_id, '{}', jobs.now()
    FROM unnest(p_device_ids) AS u (device_id)
    ORDER BY u.device_id COLLATE "C"
    ON CONFLICT (tenant_id, device_id) DO UPDATE SET device_id = excluded.device_id WHERE false;

    SELECT array_agg(u.device_id) INTO v_changed_ids
    FROM unnest(p_device_ids, p_facts) AS u (device_id, facts)
    CROSS JOIN LATERAL (
        SELECT f.facts FROM jobs.device_facts f
        WHERE f.tenant_id = p_tenant_id AND f.device_id = u.device_id
        OFFSET 0
    ) f
    WHERE EXISTS (
        SELECT FROM unnest(p_keys) AS k (key)
        WHERE (p_replace OR u.facts::jsonb ? k.key) AND f.facts ->> k.key IS DISTINCT FROM u.facts::jsonb ->> k.key
    );
    IF v_changed_ids IS NOT NULL THEN
        INSERT INTO jobs.device_changes (tenant_id, noted_at, device_ids, device_count)
        VALUES (p_tenant_id, jobs.now(), v_changed_ids, cardinality(v_changed_ids));
    END IF;
END $$;
