-- Applies the failure criteria of a job, and then the gates of its stages, after its counts or its
-- settings changed. Does nothing if the job has neither, is finished, or is paused. The caller holds
-- the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.apply_rollout_rules(
    p_tenant_id text, p_job_id text, p_now timestamptz,
    p_has_failures boolean DEFAULT NULL,  -- see apply_failure_criteria; NULL: check only the gates
    -- The next two: see apply_failure_criteria.
    p_stages smallint[] DEFAULT NULL,
    p_failed_ats timestamptz[] DEFAULT NULL,
    p_user_id text DEFAULT NULL  -- see apply_gates
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_has_failure_criteria boolean;
    v_has_stages boolean;
BEGIN
    SELECT j.has_failure_criteria, j.open_stage IS NOT NULL
    INTO v_has_failure_criteria, v_has_stages
    FROM jobs.jobs j
    JOIN jobs.job_progress p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND j.paused_at IS NULL AND j.deleted_at IS NULL
      AND jobs.job_status_at(j.status, j.expires_at, p.in_progress, p_now) = 'IN_PROGRESS';
    IF NOT FOUND THEN
        RETURN;
    END IF;

    IF v_has_failure_criteria AND p_has_failures IS NOT NULL
       AND jobs.apply_failure_criteria(
               p_tenant_id, p_job_id, p_now, p_has_failures, p_stages, p_failed_ats
           ) THEN
        RETURN;
    END IF;
    IF v_has_stages THEN
        PERFORM jobs.apply_gates(p_tenant_id, p_job_id, p_now, p_user_id);
    END IF;
END $$;
