-- Keeps rows of own device tables from being deleted until the transaction ends, in the order of device_id, and
-- returns the devices that exist. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.share_devices(
    p_tenant_id text,
    p_device_ids text[]  -- in order
) RETURNS text[]
LANGUAGE plpgsql
-- settings: lookup
AS $$
BEGIN
    RETURN ARRAY(
        SELECT u.device_id
        FROM unnest(p_device_ids) AS u (device_id)
        CROSS JOIN LATERAL (
            SELECT FROM public.device_state d
            WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
            FOR KEY SHARE
        ) locked
    );
END $$;
