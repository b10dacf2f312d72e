-- Removes from the counts of retrying devices those whose execution was QUEUED when the job expired. The caller
-- holds the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.reset_retrying_counts(p_tenant_id text, p_job_id text) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
BEGIN
    UPDATE jobs.job_progress p
    SET retrying = p.retrying_in_progress
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id AND p.retrying > 0;
    IF FOUND THEN
        UPDATE jobs.job_stages s
        SET retrying = s.retrying_in_progress
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.retrying > 0;
    END IF;
END $$;
