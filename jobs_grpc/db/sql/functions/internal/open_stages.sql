-- Opens the next stages of a job whose gates are met. The caller holds the job lock and has set the
-- tenant.
CREATE OR REPLACE FUNCTION jobs.open_stages(
    p_tenant_id text, p_job_id text, p_now timestamptz
) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    NULL;
END $$;
