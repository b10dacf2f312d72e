-- For servers of the previous version, which call it instead of finalize_executions. Returns only the
-- device_id to continue after.
CREATE OR REPLACE FUNCTION jobs.finalize_job(
    p_tenant_id text, p_job_id text, p_after_device_id text, p_limit integer, p_wait_ms integer
) RETURNS text
LANGUAGE plpgsql
-- settings: index, custom plan, lock timeout
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN (
        SELECT w.next_device_id
        FROM jobs.write_final_statuses(
            p_tenant_id, p_job_id, p_after_device_id, p_limit, p_wait_ms
        ) w
    );
END $$;
