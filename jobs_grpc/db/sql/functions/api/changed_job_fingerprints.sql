-- Returns the jobs whose fingerprint differs from the given one, with the current fingerprint; see
-- job_fingerprints. A given NULL differs from any fingerprint. A job that does not exist has the
-- fingerprint 0.
--
-- The server calls it only on Citus, where a call reads the rows of one tenant; otherwise it calls
-- changed_job_fingerprints_of_tenants.
CREATE OR REPLACE FUNCTION jobs.changed_job_fingerprints(
    p_tenant_id text,
    p_job_ids text[],        -- one per watched job, like p_fingerprints
    p_fingerprints bigint[]
) RETURNS TABLE (
    "position" integer,  -- of the job in p_job_ids, from 1
    fingerprint bigint
)
LANGUAGE plpgsql
-- settings: tenant, page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT d.ordinality::integer, coalesce(c.fingerprint, 0)
    FROM unnest(p_job_ids, p_fingerprints) WITH ORDINALITY AS d (job_id, fingerprint)
    LEFT JOIN LATERAL (
        SELECT j.fingerprint
        FROM jobs.job_fingerprints j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = d.job_id
        OFFSET 0
    ) c ON true
    WHERE coalesce(c.fingerprint, 0) IS DISTINCT FROM d.fingerprint;
END $$;
