-- Returns those of the devices that the tenant does not have, sorted; NULL: none. The caller has set the
-- tenant.
CREATE OR REPLACE FUNCTION jobs.missing_devices(p_tenant_id text, p_device_ids text[]) RETURNS text[]
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_found text[];
BEGIN
    -- Elements of an array have no collation, so each lookup uses that of the platform's column.
    v_found := ARRAY(
        SELECT d.device_id
        FROM unnest(p_device_ids) AS u (device_id)
        CROSS JOIN LATERAL (
            SELECT d.device_id
            FROM public.device_state d
            WHERE d.tenant_id = p_tenant_id AND d.device_id = u.device_id
            OFFSET 0
        ) d
    );
    RETURN (
        SELECT array_agg(missing.device_id ORDER BY missing.device_id COLLATE "C")
        FROM (
            SELECT * FROM unnest(p_device_ids)
            EXCEPT
            SELECT * FROM unnest(v_found)
        ) AS missing (device_id)
    );
END $$;
