-- Writes derived statuses of a canceled or expired job, and returns how many: see write_final_statuses.
CREATE OR REPLACE FUNCTION jobs.finalize_executions(
    p_tenant_id text, p_job_id text, p_after_device_id text, p_limit integer, p_wait_ms integer
) RETURNS TABLE (next_device_id text, timed_out_count integer, rejected_count integer)
LANGUAGE plpgsql
-- settings: index, custom plan, lock timeout
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT w.next_device_id, w.timed_out_count, w.rejected_count
    FROM jobs.write_final_statuses(
        p_tenant_id, p_job_id, p_after_device_id, p_limit, p_wait_ms
    ) w;
END $$;
