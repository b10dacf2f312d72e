-- Returns the p_positions that differ from the tenant's last position, with that position as `head`. While events
-- are queued, which list_events will sequence, `head` is -1, and all differ. NULL differs from any position.
--
-- The server calls it only on Citus; otherwise it calls changed_event_heads_of_tenants.
CREATE OR REPLACE FUNCTION jobs.changed_event_heads(
    p_tenant_id text,
    p_positions bigint[]
) RETURNS TABLE (
    "position" integer,  -- in p_positions, from 1
    head bigint
)
LANGUAGE plpgsql
-- settings: tenant, page
AS $$
#variable_conflict use_column
DECLARE
    v_head bigint := 0;
BEGIN
    PERFORM FROM jobs.event_queue q WHERE q.tenant_id = p_tenant_id LIMIT 1;
    IF FOUND THEN
        v_head := -1;
    ELSE
        SELECT h.position INTO v_head FROM jobs.event_heads h WHERE h.tenant_id = p_tenant_id;
    END IF;

    RETURN QUERY
    SELECT d.ordinality::integer, coalesce(v_head, 0)
    FROM unnest(p_positions) WITH ORDINALITY AS d (position)
    WHERE coalesce(v_head, 0) IS DISTINCT FROM d.position;
END $$;
