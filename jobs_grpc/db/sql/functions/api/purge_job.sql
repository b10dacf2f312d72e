-- Removes rows of a deleted job: those of the next p_limit executions after p_after_device_id ('':
-- from the start) and of their attempts and, when no execution is left, p_limit of its events
-- (see purge_job_events) and then those of the job. Returns the device_id to continue after; NULL:
-- nothing is left. For p_wait_ms see lock_job_with_timeout.
CREATE OR REPLACE FUNCTION jobs.purge_job(
    p_tenant_id text, p_job_id text, p_after_device_id text, p_limit integer, p_wait_ms integer
) RETURNS text
LANGUAGE plpgsql
-- settings: tenant, index, custom plan, lock timeout
AS $$
DECLARE
    v_last_device_id text;
BEGIN
    IF NOT jobs.lock_job_with_timeout(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN NULL;
    END IF;

    PERFORM FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    SELECT e.device_id INTO v_last_device_id
    FROM jobs.job_executions e
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id > p_after_device_id
    ORDER BY e.device_id
    LIMIT 1 OFFSET p_limit - 1;

    DELETE FROM jobs.execution_attempts a
    WHERE a.tenant_id = p_tenant_id AND a.job_id = p_job_id AND a.device_id > p_after_device_id
      AND (v_last_device_id IS NULL OR a.device_id <= v_last_device_id);
    DELETE FROM jobs.job_executions e
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id > p_after_device_id
      AND (v_last_device_id IS NULL OR e.device_id <= v_last_device_id);

    IF v_last_device_id IS NOT NULL THEN
        RETURN v_last_device_id;
    END IF;
    IF NOT jobs.purge_job_events(p_tenant_id, p_job_id, p_limit) THEN
        RETURN p_after_device_id;
    END IF;

    DELETE FROM jobs.job_failures f WHERE f.tenant_id = p_tenant_id AND f.job_id = p_job_id;
    DELETE FROM jobs.job_criterion_counts c
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;
    DELETE FROM jobs.job_failure_criteria c WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;
    DELETE FROM jobs.job_stages s WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
    -- Of a continuous job that has expired since the last full scan.
    DELETE FROM jobs.continuous_jobs c WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;
    DELETE FROM jobs.job_progress p WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;
    DELETE FROM jobs.jobs j WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    RETURN NULL;
END $$;
