-- Counts up to p_limit webhooks by state. The caller must see the rows of all tenants.
CREATE OR REPLACE FUNCTION jobs.count_webhooks(
    p_limit integer,
    OUT working bigint,   -- enabled; the last delivery succeeded
    OUT failing bigint,   -- enabled; the last delivery failed, or there was none yet
    OUT disabled bigint
)
LANGUAGE plpgsql STABLE
-- Only the primary key delivers the order.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    SELECT count(*) FILTER (WHERE w.enabled AND NOT w.is_failing),
           count(*) FILTER (WHERE w.enabled AND w.is_failing),
           count(*) FILTER (WHERE NOT w.enabled)
    INTO working, failing, disabled
    FROM (
        SELECT w.enabled, w.is_failing
        FROM jobs.webhooks w
        ORDER BY w.tenant_id, w.webhook_id
        LIMIT p_limit
    ) w;
END $$;
