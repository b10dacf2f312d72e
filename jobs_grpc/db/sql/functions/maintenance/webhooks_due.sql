-- Returns up to p_limit webhooks whose due_at has passed, oldest first: with p_unproven, those whose last delivery
-- failed or that never had one, otherwise the proven ones. Skips the tenants in p_skip_tenant_ids.
CREATE OR REPLACE FUNCTION jobs.webhooks_due(
    p_unproven boolean, p_limit integer, p_skip_tenant_ids text[]
) RETURNS TABLE (tenant_id text, webhook_id text, due_at timestamptz)
LANGUAGE plpgsql STABLE
-- Only the index webhooks_by_due_at delivers the order.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT w.tenant_id, w.webhook_id, w.due_at
    FROM jobs.webhooks w
    -- The lower bound matters on Citus: see jobs_to_purge.
    WHERE w.due_at > '-infinity' AND w.due_at <= jobs.now() AND w.is_unproven = p_unproven
      AND w.tenant_id <> ALL (p_skip_tenant_ids)
    ORDER BY w.due_at
    LIMIT p_limit;
END $$;
