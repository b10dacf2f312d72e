-- Raises START_NOT_APPROVED if the start of a job needs an approval and has none. The caller holds the job lock
-- and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.check_start_approved(p_tenant_id text, p_job_id text) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_approval jsonb;
BEGIN
    SELECT j.start_approval INTO v_approval
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_approval = '{}' THEN
        PERFORM jobs.raise_error('START_NOT_APPROVED');
    END IF;
END $$;
