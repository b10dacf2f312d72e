-- Like changed_job_fingerprints, for jobs of many tenants in one statement.
--
-- The query reads the rows of each job by the tenant_id that set_config returns. So the tenant is set
-- before its rows are read, and row-level security applies to each of them.
CREATE OR REPLACE FUNCTION jobs.changed_job_fingerprints_of_tenants(
    p_tenant_ids text[],     -- one per watched job, like the next two
    p_job_ids text[],
    p_fingerprints bigint[]
) RETURNS TABLE (
    "position" integer,  -- of the job in p_job_ids, from 1
    fingerprint bigint
)
LANGUAGE plpgsql
-- settings: page, no memoize
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT d.ordinality::integer, coalesce(c.fingerprint, 0)
    FROM unnest(p_tenant_ids, p_job_ids, p_fingerprints)
        WITH ORDINALITY AS d (tenant_id, job_id, fingerprint)
    CROSS JOIN LATERAL (
        SELECT set_config('app.tenant_id', d.tenant_id, true) AS tenant_id OFFSET 0
    ) t
    LEFT JOIN LATERAL (
        SELECT j.fingerprint
        FROM jobs.job_fingerprints j
        WHERE j.tenant_id = t.tenant_id AND j.job_id = d.job_id
        OFFSET 0
    ) c ON true
    WHERE coalesce(c.fingerprint, 0) IS DISTINCT FROM d.fingerprint;

    PERFORM set_config('app.tenant_id', '', true);
END $$;
