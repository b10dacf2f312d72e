-- Inserts the failure criteria of a job. The caller has set the tenant, and has created the stages.
--
-- Raises ROLLOUT_MISSING (with the field) if one has the scope STAGE, and the job has no rollout.
CREATE OR REPLACE FUNCTION jobs.insert_failure_criteria(
    p_tenant_id text, p_job_id text,
    p_failure_criteria jsonb  -- as in jobs.jobs.request
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_criterion smallint;
BEGIN
    INSERT INTO jobs.job_failure_criteria
        (tenant_id, job_id, criterion, statuses, failure_codes, percent, count, basis,
         min_finished, scope, action)
    SELECT p_tenant_id, p_job_id, e.n - 1, c.statuses, c.failure_codes, c.percent, c.count, c.basis,
           c.min_finished, c.scope, c.action
    FROM jsonb_array_elements(p_failure_criteria) WITH ORDINALITY AS e (criterion, n)
    CROSS JOIN LATERAL jsonb_populate_record(NULL::jobs.job_failure_criteria, e.criterion) c;

    SELECT min(c.criterion) INTO v_criterion
    FROM jobs.job_failure_criteria c
    JOIN jobs.jobs j ON j.tenant_id = c.tenant_id AND j.job_id = c.job_id
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id AND c.criterion >= 0
      AND c.scope = 'STAGE' AND j.open_stage IS NULL;
    IF v_criterion IS NOT NULL THEN
        PERFORM jobs.raise_error(
            'ROLLOUT_MISSING', format('failure_criteria[%s].scope', v_criterion)
        );
    END IF;
END $$;
