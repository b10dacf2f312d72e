-- Removes from the counts of retrying devices those whose execution was QUEUED when a cancel or the expiry
-- ended the job; with p_forced, also those whose execution was IN_PROGRESS. The caller holds the job lock and
-- has set the tenant.
CREATE OR REPLACE FUNCTION jobs.reset_retrying_counts(
    p_tenant_id text, p_job_id text, p_forced boolean
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
BEGIN
    UPDATE jobs.job_progress p
    SET retrying = CASE WHEN p_forced THEN 0 ELSE p.retrying_in_progress END,
        retrying_in_progress = CASE WHEN p_forced THEN 0 ELSE p.retrying_in_progress END
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id AND p.retrying > 0;
    IF FOUND THEN
        UPDATE jobs.job_stages s
        SET retrying = CASE WHEN p_forced THEN 0 ELSE s.retrying_in_progress END,
            retrying_in_progress = CASE WHEN p_forced THEN 0 ELSE s.retrying_in_progress END
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.retrying > 0;
    END IF;
END $$;
