-- Stores that devices can join a new job, and schedules its first full scan. The caller has set the tenant.
--
-- Raises TOO_MANY_CONTINUOUS_JOBS.
CREATE OR REPLACE FUNCTION jobs.insert_continuous_job(
    p_tenant_id text, p_job_id text,
    p_request jsonb,         -- as in jobs.jobs.request
    p_selector_terms jsonb,  -- see target_query
    p_now timestamptz
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_terms jsonb := CASE
        WHEN p_request ? 'target_selector'
            THEN jobs.terms_of_selector(p_selector_terms, p_request ->> 'target_selector')
        WHEN p_request ? 'target_group_id' THEN jsonb_build_array(jsonb_build_object(
            'key', 'group', 'op', 'in', 'values', ARRAY[p_request ->> 'target_group_id']
        ))
        ELSE '[]'
    END;
    v_fact_keys text[];
BEGIN
    PERFORM jobs.check_continuous_job_limit(p_tenant_id, NULL, true);
    v_fact_keys := ARRAY(
        SELECT DISTINCT substr(t ->> 'key', 6)
        FROM jsonb_array_elements(v_terms) AS t
        WHERE starts_with(t ->> 'key', 'fact.')
    );
    INSERT INTO jobs.continuous_jobs
        (tenant_id, job_id, terms, fact_keys, max_joins_per_hour, scan_due_at)
    VALUES
        (p_tenant_id, p_job_id, v_terms, v_fact_keys,
         (p_request -> 'max_joins_per_hour')::integer, p_now);
END $$;
