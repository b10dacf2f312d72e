-- Adds to the counts of retrying devices (see Job.retrying_count) of jobs and their stages. The arrays are
-- parallel. The caller holds the job locks and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.change_retrying_counts(
    p_tenant_id text,
    p_job_ids text[],
    p_stages smallint[],     -- NULL elements: no rollout
    p_retrying integer[],    -- added to the count
    p_in_progress integer[]  -- added to the count of those that are IN_PROGRESS
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
BEGIN
    -- One lookup per job and stage, then an update by ctid, as in update_executions.
    UPDATE jobs.job_progress p
    SET retrying = p.retrying + c.retrying,
        retrying_in_progress = p.retrying_in_progress + c.in_progress
    FROM (
        SELECT u.retrying, u.in_progress, p.row_id
        FROM (
            SELECT u.job_id, sum(u.retrying) AS retrying, sum(u.in_progress) AS in_progress
            FROM unnest(p_job_ids, p_retrying, p_in_progress) AS u (job_id, retrying, in_progress)
            GROUP BY u.job_id
        ) u
        CROSS JOIN LATERAL (
            SELECT p.ctid AS row_id
            FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = u.job_id
            OFFSET 0
        ) p
        WHERE (u.retrying, u.in_progress) <> (0, 0)
    ) c
    WHERE p.tenant_id = p_tenant_id AND p.ctid = c.row_id;

    UPDATE jobs.job_stages s
    SET retrying = s.retrying + c.retrying,
        retrying_in_progress = s.retrying_in_progress + c.in_progress
    FROM (
        SELECT u.retrying, u.in_progress, s.row_id
        FROM (
            SELECT u.job_id, u.stage, sum(u.retrying) AS retrying,
                   sum(u.in_progress) AS in_progress
            FROM unnest(p_job_ids, p_stages, p_retrying, p_in_progress)
                AS u (job_id, stage, retrying, in_progress)
            WHERE u.stage IS NOT NULL
            GROUP BY u.job_id, u.stage
        ) u
        CROSS JOIN LATERAL (
            SELECT s.ctid AS row_id
            FROM jobs.job_stages s
            WHERE s.tenant_id = p_tenant_id AND s.job_id = u.job_id AND s.stage = u.stage
            OFFSET 0
        ) s
        WHERE (u.retrying, u.in_progress) <> (0, 0)
    ) c
    WHERE s.tenant_id = p_tenant_id AND s.ctid = c.row_id;
END $$;
