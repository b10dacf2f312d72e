-- Returns those of the devices that the tenant does not have. `is_registered` is false in each row.
--
-- The server calls it only on Citus; otherwise it calls unregistered_devices_of_tenants.
CREATE OR REPLACE FUNCTION jobs.unregistered_devices(
    p_tenant_id text,
    p_device_ids text[]
) RETURNS TABLE (
    "position" integer,  -- in p_device_ids, from 1
    is_registered boolean
)
LANGUAGE plpgsql
-- settings: tenant, lookup, nested loops
AS $$
BEGIN
    RETURN QUERY
    SELECT u.ordinality::integer, false
    FROM unnest(p_device_ids) WITH ORDINALITY AS u (device_id)
    LEFT JOIN LATERAL (
        SELECT true AS is_registered
        FROM public.device_state d
        WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
        OFFSET 0
    ) d ON true
    WHERE d.is_registered IS NULL;
END $$;
