-- Returns the first p_limit groups of a device, in order. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.device_groups(
    p_tenant_id text, p_device_id text, p_limit integer
) RETURNS text[]
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
BEGIN
    RETURN (
        SELECT coalesce((array_agg(m.group_id ORDER BY m.group_id))[:p_limit], '{}')
        FROM (
            -- A range instead of "=", so that only an index that starts with (tenant_id, device_id)
            -- delivers the order.
            SELECT m.group_id COLLATE "C" AS group_id
            FROM public.device_group_members m
            WHERE m.tenant_id = p_tenant_id
              AND m.device_id COLLATE "C" >= p_device_id AND m.device_id COLLATE "C" <= p_device_id
            ORDER BY m.device_id COLLATE "C"
            OFFSET 0
        ) m
    );
END $$;
