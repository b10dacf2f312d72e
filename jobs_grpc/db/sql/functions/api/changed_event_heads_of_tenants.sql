-- Like changed_event_heads, for many tenants in one statement. See changed_job_fingerprints_of_tenants for how
-- row-level security applies to each of them.
CREATE OR REPLACE FUNCTION jobs.changed_event_heads_of_tenants(
    p_tenant_ids text[],
    p_positions bigint[]
) RETURNS TABLE (
    "position" integer,  -- of the tenant in p_tenant_ids, from 1
    head bigint
)
LANGUAGE plpgsql
-- settings: page, no memoize
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT d.ordinality::integer, CASE WHEN q.is_queued THEN -1 ELSE coalesce(h.position, 0) END
    FROM unnest(p_tenant_ids, p_positions) WITH ORDINALITY AS d (tenant_id, position)
    CROSS JOIN LATERAL (
        SELECT set_config('app.tenant_id', d.tenant_id, true) AS tenant_id OFFSET 0
    ) t
    LEFT JOIN LATERAL (
        SELECT true AS is_queued
        FROM jobs.event_queue q
        WHERE q.tenant_id = t.tenant_id
        LIMIT 1
    ) q ON true
    LEFT JOIN LATERAL (
        SELECT h.position
        FROM jobs.event_heads h
        WHERE h.tenant_id = t.tenant_id
        OFFSET 0
    ) h ON true
    WHERE q.is_queued OR coalesce(h.position, 0) IS DISTINCT FROM d.position;

    PERFORM set_config('app.tenant_id', '', true);
END $$;
