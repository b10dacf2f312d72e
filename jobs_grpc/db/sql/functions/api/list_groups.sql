-- Returns a page of the groups with the prefix p_prefix, in order: see counted_groups.
CREATE OR REPLACE FUNCTION jobs.list_groups(
    p_tenant_id text,
    p_prefix text,         -- '': all
    p_after text,          -- the last group of the page before; '': from the first
    p_limit integer,
    p_max_counted integer
) RETURNS TABLE (group_id text, device_count integer)
LANGUAGE plpgsql STABLE
-- settings: tenant
AS $$
BEGIN
    RETURN QUERY
    SELECT * FROM jobs.counted_groups(p_tenant_id, p_prefix, p_after, p_limit, p_max_counted);
END $$;
