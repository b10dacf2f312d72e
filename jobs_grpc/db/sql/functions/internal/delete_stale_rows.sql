-- Deletes the rows of jobs.devices and jobs.device_facts whose device does not exist, of those with the IDs. The
-- caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.delete_stale_rows(p_tenant_id text, p_device_ids text[]) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    -- UpdateDevices waits for these row locks before it sets labels of a device that it has registered.
    v_locked_ids text[] := ARRAY(
        SELECT locked.device_id
        FROM unnest(p_device_ids) AS u (device_id)
        CROSS JOIN LATERAL (
            SELECT d.device_id
            FROM jobs.devices d
            WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
            FOR UPDATE
        ) locked
    );
    v_locked_facts text[] := ARRAY(
        SELECT locked.device_id
        FROM unnest(p_device_ids) AS u (device_id)
        CROSS JOIN LATERAL (
            SELECT f.device_id
            FROM jobs.device_facts f
            WHERE f.tenant_id = p_tenant_id AND f.device_id = u.device_id
            FOR UPDATE
        ) locked
    );
    -- Not in the DELETE: Citus would then refuse its ctid. Each table has its own devices: a row that was not locked
    -- can be of a device that is registered from now on.
    v_stale_ids text[] := jobs.missing_devices(p_tenant_id, v_locked_ids);
    v_stale_facts text[] := jobs.missing_devices(p_tenant_id, v_locked_facts);
BEGIN
    DELETE FROM jobs.devices d
    USING (
        SELECT d.row_id
        FROM unnest(v_stale_ids) AS u (device_id)
        CROSS JOIN LATERAL (
            SELECT d.ctid AS row_id
            FROM jobs.devices d
            WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
            OFFSET 0
        ) d
    ) stale
    WHERE d.tenant_id = p_tenant_id AND d.ctid = stale.row_id;
    DELETE FROM jobs.device_facts f
    USING (
        SELECT f.row_id
        FROM unnest(v_stale_facts) AS u (device_id)
        CROSS JOIN LATERAL (
            SELECT f.ctid AS row_id
            FROM jobs.device_facts f
            WHERE f.tenant_id = p_tenant_id AND f.device_id = u.device_id
            OFFSET 0
        ) f
    ) stale
    WHERE f.tenant_id = p_tenant_id AND f.ctid = stale.row_id;
END $$;
