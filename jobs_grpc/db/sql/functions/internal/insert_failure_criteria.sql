-- Inserts the failure criteria of a job. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.insert_failure_criteria(
    p_tenant_id text,
    p_job_id text,
    p_failure_criteria jsonb  -- as in jobs.rollout_request
) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO jobs.job_failure_criteria
        (tenant_id, job_id, criterion, statuses, failure_codes, percent, count, basis,
         min_finished, scope, action)
    SELECT p_tenant_id, p_job_id, c.n - 1,
           ARRAY(SELECT s::jobs.execution_status
                 FROM jsonb_array_elements_text(c.criterion -> 'statuses') AS s),
           ARRAY(SELECT jsonb_array_elements_text(c.criterion -> 'failure_codes')),
           (c.criterion ->> 'percent')::integer, (c.criterion ->> 'count')::integer,
           c.criterion ->> 'basis', (c.criterion ->> 'min_finished')::integer,
           c.criterion ->> 'scope', c.criterion ->> 'action'
    FROM jsonb_array_elements(p_failure_criteria) WITH ORDINALITY AS c (criterion, n);
END $$;
