-- depends on: matches_criterion
-- Adds failures of devices to the counts of their jobs, stages and failure criteria, one for each
-- element of the parallel arrays. The caller holds the job locks and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.count_failures(
    p_tenant_id text,
    p_job_ids text[],
    p_statuses jobs.execution_status[],
    p_failure_codes text[],
    p_stages smallint[] DEFAULT NULL  -- NULL, or an element that is NULL: no rollout
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    v_counted bigint;
    v_job_id text;
    v_pairs bigint;
BEGIN
    -- One lookup per pair of status and code, then an update by ctid, as in update_executions. A join
    -- may read all counts of the job for each pair.
    WITH updated AS (
        UPDATE jobs.job_failures f
        SET executions = f.executions + u.executions
        FROM (
            SELECT u.executions, f.row_id
            FROM (
                SELECT u.job_id, u.status, u.failure_code, count(*)::integer AS executions
                FROM unnest(p_job_ids, p_statuses, p_failure_codes)
                    AS u (job_id, status, failure_code)
                GROUP BY u.job_id, u.status, u.failure_code
            ) u
            CROSS JOIN LATERAL (
                SELECT f.ctid AS row_id
                FROM jobs.job_failures f
                WHERE f.tenant_id = p_tenant_id AND f.job_id = u.job_id
                  AND f.status = u.status AND f.failure_code = u.failure_code
                OFFSET 0
            ) f
        ) u
        WHERE f.tenant_id = p_tenant_id AND f.ctid = u.row_id
        RETURNING u.executions
    )
    SELECT coalesce(sum(u.executions), 0) INTO v_counted FROM updated u;

    -- The other pairs of status and code have no row. They get one while the job has fewer than 100.
    IF v_counted < cardinality(p_job_ids) THEN
        FOR v_job_id IN SELECT DISTINCT u.job_id FROM unnest(p_job_ids) AS u (job_id) LOOP
            SELECT count(*) INTO v_pairs
            FROM jobs.job_failures f
            WHERE f.tenant_id = p_tenant_id AND f.job_id = v_job_id AND f.failure_code <> '*';

            INSERT INTO jobs.job_failures AS f (tenant_id, job_id, status, failure_code, executions)
            SELECT p_tenant_id, v_job_id, pair.status,
                   CASE WHEN v_pairs + pair.n <= 100 THEN pair.failure_code ELSE '*' END,
                   sum(pair.executions)
            FROM (
                SELECT u.status, u.failure_code, count(*) AS executions,
                       row_number() OVER (ORDER BY u.status, u.failure_code) AS n
                FROM unnest(p_job_ids, p_statuses, p_failure_codes)
                    AS u (job_id, status, failure_code)
                WHERE u.job_id = v_job_id AND NOT EXISTS (
                    SELECT FROM jobs.job_failures k
                    WHERE k.tenant_id = p_tenant_id AND k.job_id = v_job_id
                      AND k.status = u.status AND k.failure_code = u.failure_code
                    OFFSET 0  -- one lookup per pair, as above
                )
                GROUP BY u.status, u.failure_code
            ) pair
            GROUP BY 3, 4
            ON CONFLICT (tenant_id, job_id, status, failure_code)
                DO UPDATE SET executions = f.executions + excluded.executions;
        END LOOP;
    END IF;

    IF p_stages IS NOT NULL THEN
        -- One lookup per stage, then an update by ctid, as in update_executions.
        UPDATE jobs.job_stages s
        SET failures = s.failures + u.executions
        FROM (
            SELECT u.executions, s.row_id
            FROM (
                SELECT u.job_id, u.stage, count(*)::integer AS executions
                FROM unnest(p_job_ids, p_stages) AS u (job_id, stage)
                WHERE u.stage IS NOT NULL
                GROUP BY u.job_id, u.stage
            ) u
            CROSS JOIN LATERAL (
                SELECT s.ctid AS row_id
                FROM jobs.job_stages s
                WHERE s.tenant_id = p_tenant_id AND s.job_id = u.job_id AND s.stage = u.stage
                OFFSET 0
            ) s
        ) u
        WHERE s.tenant_id = p_tenant_id AND s.ctid = u.row_id;
    END IF;

    -- Not derived from the counts above, which count some codes together, as '*'.
    INSERT INTO jobs.job_criterion_counts AS n (tenant_id, job_id, criterion, stage, failures)
    SELECT p_tenant_id, u.job_id, c.criterion,
           CASE WHEN c.scope = 'STAGE' THEN u.stage ELSE -1 END, sum(u.executions)
    FROM (
        SELECT u.job_id, u.status, u.failure_code, u.stage, count(*) AS executions
        FROM unnest(p_job_ids, p_statuses, p_failure_codes, p_stages)
            AS u (job_id, status, failure_code, stage)
        GROUP BY u.job_id, u.status, u.failure_code, u.stage
    ) u
    CROSS JOIN LATERAL (
        SELECT c.criterion, c.scope, c.statuses, c.failure_codes
        FROM jobs.job_failure_criteria c
        WHERE c.tenant_id = p_tenant_id AND c.job_id = u.job_id
        OFFSET 0
    ) c
    WHERE jobs.matches_criterion(u.status, u.failure_code, c.statuses, c.failure_codes)
    GROUP BY 2, 3, 4
    ON CONFLICT (tenant_id, job_id, criterion, stage)
        DO UPDATE SET failures = n.failures + excluded.failures;
END $$;
