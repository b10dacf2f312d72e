-- Returns up to p_limit webhooks that wait for a dispatcher or for a time, and whether each is due: those of the
-- tenants after p_after_tenant_id, in the order of tenant_id, and those of a tenant in the order of due_at. With
-- p_unproven, the unproven ones, otherwise the proven ones.
--
-- Has no other condition, so that it reads no more index entries than it returns, however many webhooks others have.
CREATE OR REPLACE FUNCTION jobs.next_webhooks(
    p_unproven boolean, p_limit integer, p_after_tenant_id text
) RETURNS TABLE (tenant_id text, webhook_id text, is_due boolean)
LANGUAGE plpgsql STABLE
-- Only the index webhooks_by_tenant delivers the order.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT w.tenant_id, w.webhook_id, w.due_at <= jobs.now()
    FROM jobs.webhooks w
    -- On due_at for the index; on Citus, also as in jobs_to_purge.
    WHERE w.is_unproven = p_unproven AND w.tenant_id > p_after_tenant_id
      AND w.due_at > '-infinity'
    ORDER BY w.tenant_id, w.due_at
    LIMIT p_limit;
END $$;
