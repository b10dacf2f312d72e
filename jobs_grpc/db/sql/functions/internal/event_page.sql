-- Returns the first p_limit events of a tenant, or of a job, with positions in a range: oldest first, or
-- newest first. Oldest first, examines at most the first p_max_examined ones. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.event_page(
    p_tenant_id text,
    p_job_id text,    -- NULL: all
    p_after bigint,
    p_until bigint,
    p_types text[],   -- NULL: all
    p_max_examined integer,
    p_newest_first boolean,  -- only with p_job_id
    p_limit integer
) RETURNS SETOF jobs.events
LANGUAGE plpgsql
-- settings: page
AS $$
BEGIN
    -- Separate statements, because each reads a different index, or the same in another direction.
    IF p_job_id IS NULL THEN
        RETURN QUERY
        SELECT e.*
        FROM (
            SELECT e.*
            FROM jobs.events e
            WHERE e.tenant_id = p_tenant_id AND e.position > p_after AND e.position <= p_until
            ORDER BY e.position
            LIMIT p_max_examined
        ) e
        WHERE p_types IS NULL OR e.type = ANY (p_types)
        LIMIT p_limit;
    ELSIF p_newest_first THEN
        RETURN QUERY
        SELECT e.*
        FROM jobs.events e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.position > p_after
          AND e.position <= p_until AND (p_types IS NULL OR e.type = ANY (p_types))
        ORDER BY e.position DESC
        LIMIT p_limit;
    ELSE
        RETURN QUERY
        SELECT e.*
        FROM (
            SELECT e.*
            FROM jobs.events e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.position > p_after
              AND e.position <= p_until
            ORDER BY e.position
            LIMIT p_max_examined
        ) e
        WHERE p_types IS NULL OR e.type = ANY (p_types)
        LIMIT p_limit;
    END IF;
END $$;
