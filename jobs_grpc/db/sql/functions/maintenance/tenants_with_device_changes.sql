-- Returns the tenants of the first p_limit notes of changed devices after p_after_tenant_id, in the order of tenant_id.
-- due_at is the time of the first of these notes of a tenant. See tenants_with_queued_events.
CREATE OR REPLACE FUNCTION jobs.tenants_with_device_changes(
    p_limit integer, p_after_tenant_id text
) RETURNS TABLE (tenant_id text, due_at timestamptz)
LANGUAGE plpgsql
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT c.tenant_id, min(c.noted_at)
    FROM (
        SELECT c.tenant_id, c.noted_at
        FROM jobs.device_changes c
        WHERE c.tenant_id > p_after_tenant_id
        ORDER BY c.tenant_id, c.noted_at
        LIMIT p_limit
    ) c
    GROUP BY c.tenant_id
    ORDER BY c.tenant_id;
END $$;
