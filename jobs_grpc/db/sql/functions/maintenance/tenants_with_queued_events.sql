-- Returns up to p_limit tenants with queued events, in the order of tenant_id, after p_after_tenant_id. due_at is
-- the time of one of these events.
CREATE OR REPLACE FUNCTION jobs.tenants_with_queued_events(
    p_limit integer, p_after_tenant_id text
) RETURNS TABLE (tenant_id text, due_at timestamptz)
LANGUAGE plpgsql
-- settings: page
AS $$
#variable_conflict use_column
DECLARE
    v_after text := p_after_tenant_id;
BEGIN
    FOR i IN 1..p_limit LOOP
        SELECT q.tenant_id, q.occurred_at INTO tenant_id, due_at
        FROM jobs.event_queue q
        WHERE q.tenant_id > v_after
        ORDER BY q.tenant_id, q.job_id, q.number
        LIMIT 1;
        EXIT WHEN NOT FOUND;
        RETURN NEXT;
        v_after := tenant_id;
    END LOOP;
END $$;
