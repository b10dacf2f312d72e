-- Checks that fewer than p_max of the tenant's other jobs are IN_PROGRESS, and keeps this true
-- until the transaction ends. Returns how many there are. The caller has set the tenant.
-- To avoid deadlocks, it must not take a lock after this call that another caller of this function takes
-- before the call.
--
-- The limit is exact under concurrency. Far from the limit, callers share an advisory lock and
-- run in parallel: there are at most max_connections callers, so together they cannot reach the
-- limit. Near the limit, each caller takes the lock exclusively.
--
-- Raises TOO_MANY_ACTIVE_JOBS.
CREATE OR REPLACE FUNCTION jobs.check_active_job_limit(
    p_tenant_id text, p_job_id text,
    p_max integer
) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    v_max_callers integer := current_setting('max_connections')::integer;
    v_lock_key bigint := hashtextextended('jobs of ' || p_tenant_id, 0);
    v_active integer;
BEGIN
    -- The first check leaves twice the room, so that the second one almost never fails: two
    -- callers that hold the shared lock and both ask for the exclusive one would deadlock.
    v_active := jobs.count_active_jobs(p_tenant_id, ARRAY[p_job_id], p_max);
    IF v_active < p_max - 2 * v_max_callers THEN
        PERFORM pg_advisory_xact_lock_shared(v_lock_key);
        v_active := jobs.count_active_jobs(p_tenant_id, ARRAY[p_job_id], p_max);
        IF v_active < p_max - v_max_callers THEN
            RETURN v_active;
        END IF;
    END IF;
    PERFORM pg_advisory_xact_lock(v_lock_key);
    v_active := jobs.count_active_jobs(p_tenant_id, ARRAY[p_job_id], p_max);
    IF v_active >= p_max THEN
        PERFORM jobs.raise_error('TOO_MANY_ACTIVE_JOBS');
    END IF;
    RETURN v_active;
END $$;
