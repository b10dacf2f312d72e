-- Returns the next tenant after p_after_tenant_id that has rows in jobs.devices or jobs.device_facts; NULL: none.
CREATE OR REPLACE FUNCTION jobs.next_device_tenant(p_after_tenant_id text) RETURNS text
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
DECLARE
    v_tenant_id text;
    v_tenant_with_facts text;
BEGIN
    SELECT d.tenant_id INTO v_tenant_id
    FROM jobs.devices d
    WHERE d.tenant_id > p_after_tenant_id
    ORDER BY d.tenant_id
    LIMIT 1;
    SELECT f.tenant_id INTO v_tenant_with_facts
    FROM jobs.device_facts f
    WHERE f.tenant_id > p_after_tenant_id
    ORDER BY f.tenant_id
    LIMIT 1;
    -- least() ignores NULL.
    RETURN least(v_tenant_id COLLATE "C", v_tenant_with_facts COLLATE "C");
END $$;
