-- Lets one more of the tenant's jobs be in progress, besides those that readers see as that.
-- Exact, however many come at once: near the limit they come one by one; far from it they
-- come together, but no more than there are connections, and not while one near it counts.
-- The caller has set the tenant, and locks nothing afterwards that others hold before this.
--
-- JB014 p_max are in progress
CREATE OR REPLACE FUNCTION jobs.admit_active_job(
    p_tenant_id text, p_job_id text, p_max integer  -- NULL: no limit
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_at_once integer := current_setting('max_connections')::integer;
    v_lock bigint := hashtextextended('jobs of ' || p_tenant_id, 0);
BEGIN
    IF p_max IS NULL THEN
        RETURN;
    END IF;
    -- Which lock, is decided with some room: two who share it could not both make it theirs.
    IF jobs.active_jobs(p_tenant_id, p_job_id, p_max) < p_max - 2 * v_at_once THEN
        PERFORM pg_advisory_xact_lock_shared(v_lock);
        IF jobs.active_jobs(p_tenant_id, p_job_id, p_max) < p_max - v_at_once THEN
            RETURN;
        END IF;
    END IF;
    PERFORM pg_advisory_xact_lock(v_lock);
    IF jobs.active_jobs(p_tenant_id, p_job_id, p_max) >= p_max THEN
        RAISE EXCEPTION 'too many active jobs' USING ERRCODE = 'JB014';
    END IF;
END $$;
