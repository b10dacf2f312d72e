-- Counts up to p_limit webhooks by state. The caller must see the rows of all tenants.
CREATE OR REPLACE FUNCTION jobs.count_webhooks(
    p_limit integer,
    OUT enabled bigint,   -- without those that are retrying
    OUT retrying bigint,  -- enabled; the last delivery failed, and is to be repeated
    OUT disabled bigint
)
LANGUAGE plpgsql STABLE
-- Only the primary key delivers the order.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    SELECT count(*) FILTER (WHERE w.enabled AND w.failure_count = 0),
           count(*) FILTER (WHERE w.enabled AND w.failure_count > 0),
           count(*) FILTER (WHERE NOT w.enabled)
    INTO enabled, retrying, disabled
    FROM (
        SELECT w.enabled, w.failure_count
        FROM jobs.webhooks w
        ORDER BY w.tenant_id, w.webhook_id
        LIMIT p_limit
    ) w;
END $$;
