-- Locks the rows of own device tables of those devices that exist, in the order of device_id. Returns
-- the devices that it locked. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.lock_devices(p_tenant_id text, p_device_ids text[]) RETURNS text[]
LANGUAGE plpgsql
-- settings: lookup
AS $$
BEGIN
    RETURN ARRAY(
        SELECT locked.device_id
        FROM (
            SELECT u.device_id FROM unnest(p_device_ids) AS u (device_id) ORDER BY u.device_id COLLATE "C"
        ) sorted
        CROSS JOIN LATERAL (
            SELECT d.device_id
            FROM public.device_state d
            WHERE d.tenant_id = p_tenant_id AND d.device_id = sorted.device_id
            FOR UPDATE
        ) locked
    );
END $$;
