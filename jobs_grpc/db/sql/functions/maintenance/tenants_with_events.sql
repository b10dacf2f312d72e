-- Returns up to p_limit tenants with events, in the order of tenant_id, after p_after_tenant_id. is_due tells
-- whether purge_events may find something to remove.
CREATE OR REPLACE FUNCTION jobs.tenants_with_events(
    p_limit integer, p_after_tenant_id text, p_days integer, p_max_events bigint
) RETURNS TABLE (tenant_id text, is_due boolean)
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
#variable_conflict use_column
DECLARE
    v_until_position bigint := jobs.event_position(jobs.clock_time() - make_interval(days => p_days));
BEGIN
    RETURN QUERY
    SELECT h.tenant_id,
           h.event_count > p_max_events
           OR h.event_count > 0 AND h.purged_position < least(h.position, v_until_position)
    FROM jobs.event_heads h
    WHERE h.tenant_id > p_after_tenant_id
    ORDER BY h.tenant_id
    LIMIT p_limit;
END $$;
