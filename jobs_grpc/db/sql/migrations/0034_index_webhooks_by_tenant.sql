-- outside a transaction
-- For next_webhooks, across tenants.
CREATE INDEX CONCURRENTLY IF NOT EXISTS webhooks_by_tenant
    ON jobs.webhooks (is_unproven, tenant_id, due_at)
    WHERE due_at IS NOT NULL;
