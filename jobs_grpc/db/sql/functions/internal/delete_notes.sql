-- Deletes notes of changed devices: see read_device_changes. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.delete_notes(
    p_tenant_id text,
    p_noted_at timestamptz[],
    p_change_ids uuid[]  -- parallel
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
BEGIN
    DELETE FROM jobs.device_changes c
    USING (
        SELECT c.row_id
        FROM unnest(p_noted_at, p_change_ids) AS u (noted_at, change_id)
        CROSS JOIN LATERAL (
            SELECT c.ctid AS row_id
            FROM jobs.device_changes c
            WHERE c.tenant_id = p_tenant_id AND c.noted_at = u.noted_at AND c.change_id = u.change_id
            OFFSET 0
        ) c
    ) done
    WHERE c.tenant_id = p_tenant_id AND c.ctid = done.row_id;
END $$;
