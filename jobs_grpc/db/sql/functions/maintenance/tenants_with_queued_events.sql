-- Returns the tenants of the first p_limit queued events after p_after_tenant_id, in the order of tenant_id.
-- due_at is the time of the first of these events of a tenant.
--
-- One query, because on Citus each asks all shards. It reads no more rows when one tenant has many events.
CREATE OR REPLACE FUNCTION jobs.tenants_with_queued_events(
    p_limit integer, p_after_tenant_id text
) RETURNS TABLE (tenant_id text, due_at timestamptz)
LANGUAGE plpgsql
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT q.tenant_id, min(q.occurred_at)
    FROM (
        SELECT q.tenant_id, q.occurred_at
        FROM jobs.event_queue q
        WHERE q.tenant_id > p_after_tenant_id
        ORDER BY q.tenant_id, q.job_id, q.number
        LIMIT p_limit
    ) q
    GROUP BY q.tenant_id
    ORDER BY q.tenant_id;
END $$;
