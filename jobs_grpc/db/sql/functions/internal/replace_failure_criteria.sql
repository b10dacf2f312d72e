-- Replaces the failure criteria of a job. A criterion with the same statuses, codes and scope as an old
-- one keeps its counts; the counts of the others start at 0. The caller holds the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.replace_failure_criteria(
    p_tenant_id text, p_job_id text,
    p_failure_criteria jsonb,  -- as in insert_failure_criteria
    p_now timestamptz
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_old smallint[];  -- for each new criterion, an old one with the same statuses, codes and scope; NULL: none
BEGIN
    -- The old criteria get negative numbers until their counts are copied.
    UPDATE jobs.job_failure_criteria c
    SET criterion = -1 - c.criterion
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;
    UPDATE jobs.job_criterion_counts n
    SET criterion = -1 - n.criterion
    WHERE n.tenant_id = p_tenant_id AND n.job_id = p_job_id;

    PERFORM jobs.insert_failure_criteria(p_tenant_id, p_job_id, p_failure_criteria);

    -- Old criteria with the same statuses, codes and scope have the same counts, so it does not matter
    -- from which of them they are copied.
    v_old := ARRAY(
        SELECT (
            SELECT max(old.criterion)
            FROM jobs.job_failure_criteria old
            WHERE old.tenant_id = p_tenant_id AND old.job_id = p_job_id AND old.criterion < 0
              AND (old.statuses, old.failure_codes, old.scope) = (c.statuses, c.failure_codes, c.scope)
        )
        FROM jobs.job_failure_criteria c
        WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id AND c.criterion >= 0
        ORDER BY c.criterion
    );
    UPDATE jobs.job_failure_criteria c
    SET counts_since = old.counts_since
    FROM unnest(v_old) WITH ORDINALITY AS u (criterion, n)
    JOIN jobs.job_failure_criteria old
        ON old.tenant_id = p_tenant_id AND old.job_id = p_job_id AND old.criterion = u.criterion
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id AND c.criterion = u.n - 1;
    INSERT INTO jobs.job_criterion_counts
        (tenant_id, job_id, criterion, stage, failures, finished_before)
    SELECT p_tenant_id, p_job_id, u.n - 1, n.stage, n.failures, n.finished_before
    FROM unnest(v_old) WITH ORDINALITY AS u (criterion, n)
    JOIN jobs.job_criterion_counts n
        ON n.tenant_id = p_tenant_id AND n.job_id = p_job_id AND n.criterion = u.criterion;
    PERFORM jobs.restart_criteria(
        p_tenant_id, p_job_id, p_now,
        ARRAY(
            SELECT (u.n - 1)::smallint
            FROM unnest(v_old) WITH ORDINALITY AS u (criterion, n)
            WHERE u.criterion IS NULL
        )
    );

    DELETE FROM jobs.job_failure_criteria c
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id AND c.criterion < 0;
    DELETE FROM jobs.job_criterion_counts n
    WHERE n.tenant_id = p_tenant_id AND n.job_id = p_job_id AND n.criterion < 0;

    UPDATE jobs.jobs j
    SET has_failure_criteria = jsonb_array_length(p_failure_criteria) > 0
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
END $$;
