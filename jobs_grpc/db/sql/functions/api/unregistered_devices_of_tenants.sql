-- Like unregistered_devices, for devices of many tenants in one statement. See changed_job_fingerprints_of_tenants for
-- how row-level security applies to each of them.
CREATE OR REPLACE FUNCTION jobs.unregistered_devices_of_tenants(
    p_tenant_ids text[],  -- one per device
    p_device_ids text[]
) RETURNS TABLE (
    "position" integer,  -- of the device in p_device_ids, from 1
    is_registered boolean
)
LANGUAGE plpgsql
-- settings: page, no memoize
AS $$
BEGIN
    RETURN QUERY
    SELECT u.ordinality::integer, false
    FROM unnest(p_tenant_ids, p_device_ids) WITH ORDINALITY AS u (tenant_id, device_id)
    CROSS JOIN LATERAL (
        SELECT set_config('app.tenant_id', u.tenant_id, true) AS tenant_id OFFSET 0
    ) t
    LEFT JOIN LATERAL (
        SELECT true AS is_registered
        FROM public.device_state d
        WHERE d.tenant_id = t.tenant_id AND d.device_id = u.device_id
        OFFSET 0
    ) d ON true
    WHERE d.is_registered IS NULL;

    PERFORM set_config('app.tenant_id', '', true);
END $$;
