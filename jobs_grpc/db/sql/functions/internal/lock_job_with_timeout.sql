-- Takes the job lock for maintenance and returns whether the job exists. If it does not, the
-- caller must do nothing, even if the job appears a moment later.
--
-- Waits at most p_wait_ms (0: not at all) for another transaction that holds the lock. Raises
-- lock_not_available (SQLSTATE 55P03) if that transaction still holds it.
CREATE OR REPLACE FUNCTION jobs.lock_job_with_timeout(
    p_tenant_id text, p_job_id text, p_wait_ms integer
) RETURNS boolean
LANGUAGE plpgsql
-- A SET clause restores lock_timeout when the function returns. Its value does not matter: set_config
-- replaces it, and NOWAIT does not wait.
-- settings: index, lock timeout
AS $$
BEGIN
    IF p_wait_ms > 0 THEN
        PERFORM set_config('lock_timeout', p_wait_ms::text, true);
        PERFORM FROM jobs.job_progress p
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
        FOR UPDATE;
    ELSE
        PERFORM FROM jobs.job_progress p
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
        FOR UPDATE NOWAIT;
    END IF;
    RETURN FOUND;
END $$;
