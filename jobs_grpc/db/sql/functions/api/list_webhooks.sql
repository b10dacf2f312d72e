-- Returns the webhooks of a tenant, the oldest first.
CREATE OR REPLACE FUNCTION jobs.list_webhooks(p_tenant_id text) RETURNS SETOF jobs.webhooks
LANGUAGE plpgsql STABLE
-- settings: tenant, lookup
AS $$
BEGIN
    RETURN QUERY
    SELECT w.*
    FROM jobs.webhooks w
    WHERE w.tenant_id = p_tenant_id
    ORDER BY w.created_at, w.webhook_id;
END $$;
