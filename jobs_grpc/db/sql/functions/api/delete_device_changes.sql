-- Deletes notes that read_device_changes has returned. Schedules a full scan for the jobs whose joins failed: one such
-- job must not delay the others.
CREATE OR REPLACE FUNCTION jobs.delete_device_changes(
    p_tenant_id text,
    p_noted_at timestamptz[],
    p_change_ids uuid[],     -- parallel
    p_failed_job_ids text[]
) RETURNS void
LANGUAGE plpgsql
-- settings: tenant
AS $$
BEGIN
    PERFORM jobs.delete_notes(p_tenant_id, p_noted_at, p_change_ids);
    IF p_failed_job_ids <> '{}' THEN
        PERFORM jobs.rescan_jobs(p_tenant_id, p_failed_job_ids);
    END IF;
END $$;
