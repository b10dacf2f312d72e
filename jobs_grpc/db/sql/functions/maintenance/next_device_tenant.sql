-- Returns the next tenant after p_after_tenant_id that has rows in jobs.devices; NULL: none.
CREATE OR REPLACE FUNCTION jobs.next_device_tenant(p_after_tenant_id text) RETURNS text
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
BEGIN
    RETURN (
        SELECT d.tenant_id
        FROM jobs.devices d
        WHERE d.tenant_id > p_after_tenant_id
        ORDER BY d.tenant_id
        LIMIT 1
    );
END $$;
