-- Takes the job locks of those jobs that exist, and returns their ids. Locks in the order of
-- job_id, so that callers that need several jobs can't deadlock. The caller has set the tenant.
--
-- Waits up to p_wait_ms for each job lock, then raises lock_not_available (SQLSTATE 55P03). If
-- p_wait_ms is 0, skips jobs that another transaction has locked.
CREATE OR REPLACE FUNCTION jobs.lock_jobs(
    p_tenant_id text, p_job_ids text[], p_wait_ms integer
) RETURNS text[]
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_locked_job_ids text[];
BEGIN
    -- One lookup per job. For one query with an array of ids, ordered by job_id, PostgreSQL 15 and
    -- 16 may read all jobs of the tenant.
    IF p_wait_ms > 0 THEN
        PERFORM set_config('lock_timeout', p_wait_ms::text, true);
        SELECT coalesce(array_agg(locked.job_id), '{}') INTO v_locked_job_ids
        FROM (
            SELECT DISTINCT u.job_id COLLATE "C" AS job_id FROM unnest(p_job_ids) AS u (job_id)
            ORDER BY 1
        ) sorted
        CROSS JOIN LATERAL (
            SELECT p.job_id
            FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = sorted.job_id
            FOR UPDATE
        ) locked;
    ELSE
        SELECT coalesce(array_agg(locked.job_id), '{}') INTO v_locked_job_ids
        FROM (
            SELECT DISTINCT u.job_id COLLATE "C" AS job_id FROM unnest(p_job_ids) AS u (job_id)
            ORDER BY 1
        ) sorted
        CROSS JOIN LATERAL (
            SELECT p.job_id
            FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = sorted.job_id
            FOR UPDATE SKIP LOCKED
        ) locked;
    END IF;
    RETURN v_locked_job_ids;
END $$;
