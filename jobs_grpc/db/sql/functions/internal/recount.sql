-- Returns the stored counts of a job that differ from its executions. At every commit, there are none: a
-- stored count is the sum of what each row of job_executions contributes.
--
-- status       the stored one: executions that are HELD, expired or canceled count as QUEUED or IN_PROGRESS
-- failure      status, failure_code and last_updated_at of an attempt that failed by itself; otherwise
--              failed_status, failed_code and failed_at of the attempt before, while that one counts
-- is_retrying  QUEUED or IN_PROGRESS after a failure
-- was_retried  retries > 0
-- release_end  the last rank of the open stage
-- finished_at  the time of the failure, or last_updated_at of an execution that SUCCEEDED
--
-- Reads all executions of the job, in one snapshot. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.recount(
    p_tenant_id text, p_job_id text
) RETURNS TABLE (
    table_name text,   -- job_executions: rows whose columns contradict each other
    key jsonb,         -- of the row: its other key columns
    column_name text,
    stored bigint,
    counted bigint
)
LANGUAGE plpgsql STABLE
-- settings: index, no jit
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH executions AS (
        SELECT e.stage, e.status, e.retries > 0 AS was_retried,
               e.failed_at IS NOT NULL AND e.status IN ('QUEUED', 'IN_PROGRESS') AS is_retrying,
               CASE WHEN e.failure_code IS NULL THEN e.failed_status ELSE e.status END AS failed_status,
               coalesce(e.failure_code, e.failed_code) AS failed_code,
               CASE WHEN e.failure_code IS NULL THEN e.failed_at ELSE e.last_updated_at END AS failed_at,
               CASE WHEN e.status = 'SUCCEEDED' OR e.failure_code IS NOT NULL THEN e.last_updated_at
                    ELSE e.failed_at END AS finished_at,
               e.failure_code IS NOT NULL AND e.status NOT IN ('FAILED', 'TIMED_OUT', 'REJECTED')
               OR e.failed_at IS NOT NULL AND (e.failure_code IS NOT NULL OR e.status = 'SUCCEEDED')
               OR num_nulls(e.failed_at, e.failed_status, e.failed_code) IN (1, 2)
               -- See the column ended_number, and the index job_executions_queue.
               OR CASE WHEN e.status IN ('QUEUED', 'IN_PROGRESS') THEN e.end_cause IS NOT NULL
                       ELSE e.ended_number IS NOT NULL AND e.end_cause IS NULL END
               OR e.status = 'IN_PROGRESS' AND e.ended_number IS NOT NULL AS is_wrong
        FROM jobs.job_executions e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
    ), sums AS (
        SELECT e.stage, grouping(e.stage) = 1 AS is_job,
               count(*) FILTER (WHERE e.status = 'QUEUED') AS queued,
               count(*) FILTER (WHERE e.status = 'IN_PROGRESS') AS in_progress,
               count(*) FILTER (WHERE e.status = 'SUCCEEDED') AS succeeded,
               count(*) FILTER (WHERE e.status = 'FAILED') AS failed,
               count(*) FILTER (WHERE e.status = 'TIMED_OUT') AS timed_out,
               count(*) FILTER (WHERE e.status = 'REJECTED') AS rejected,
               count(*) FILTER (WHERE e.is_retrying) AS retrying,
               count(*) FILTER (WHERE e.is_retrying AND e.status = 'IN_PROGRESS')
                   AS retrying_in_progress,
               count(*) FILTER (WHERE e.was_retried) AS retried_devices,
               count(*) FILTER (WHERE e.failed_at IS NOT NULL) AS failures,
               count(*) AS executions,
               count(*) FILTER (WHERE e.is_wrong) AS wrong
        FROM executions e
        GROUP BY GROUPING SETS ((), (e.stage))
    ), failures AS (
        -- A code without a count of its own is counted as '*'.
        SELECT e.failed_status AS status, coalesce(f.failure_code, '*') AS failure_code,
               count(*) AS executions
        FROM executions e
        LEFT JOIN jobs.job_failures f
            ON f.tenant_id = p_tenant_id AND f.job_id = p_job_id
            AND f.status = e.failed_status AND f.failure_code = e.failed_code
        WHERE e.failed_at IS NOT NULL
        GROUP BY 1, 2
    ), criteria AS (
        SELECT c.criterion, CASE WHEN c.scope = 'STAGE' THEN e.stage ELSE -1 END AS stage,
               count(*) FILTER (
                   WHERE e.failed_at > c.counts_since
                     AND jobs.matches_criterion(
                         e.failed_status, e.failed_code, c.statuses, c.failure_codes
                     )
               ) AS failures,
               count(*) FILTER (WHERE e.finished_at <= c.counts_since) AS finished_before
        FROM jobs.job_failure_criteria c
        CROSS JOIN executions e
        WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id AND e.finished_at IS NOT NULL
        GROUP BY 1, 2
    ), counted_rows AS (
        SELECT 'job_progress' AS table_name, '{}'::jsonb AS key,
               to_jsonb(s) - '{stage, is_job, failures, executions, wrong}'::text[] AS counts
        FROM sums s WHERE s.is_job
        UNION ALL
        SELECT 'job_executions', '{}', jsonb_build_object('wrong', s.wrong) FROM sums s WHERE s.is_job
        UNION ALL
        SELECT 'job_stages', jsonb_build_object('stage', s.stage),
               to_jsonb(s) - '{stage, is_job, retried_devices, wrong}'::text[]
        FROM sums s WHERE NOT s.is_job AND s.stage IS NOT NULL
        UNION ALL
        SELECT 'job_failures', jsonb_build_object('status', f.status, 'failure_code', f.failure_code),
               jsonb_build_object('executions', f.executions)
        FROM failures f
        UNION ALL
        SELECT 'job_criterion_counts', jsonb_build_object('criterion', c.criterion, 'stage', c.stage),
               to_jsonb(c) - '{criterion, stage}'::text[]
        FROM criteria c
        UNION ALL
        SELECT 'jobs', '{}', jsonb_build_object('release_end', s.last_rank)
        FROM jobs.jobs j
        JOIN jobs.job_stages s
            ON s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = j.open_stage
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
    ), stored_rows AS (
        SELECT 'jobs' AS table_name, '{}'::jsonb AS key,
               jsonb_build_object('release_end', j.release_end) AS columns
        FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.release_end IS NOT NULL
        UNION ALL
        SELECT 'job_progress', '{}', to_jsonb(p)
        FROM jobs.job_progress p WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
        UNION ALL
        SELECT 'job_stages', jsonb_build_object('stage', s.stage),
               to_jsonb(s) || jsonb_build_object('executions', s.last_rank - s.first_rank + 1)
        FROM jobs.job_stages s WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
        UNION ALL
        SELECT 'job_failures', jsonb_build_object('status', f.status, 'failure_code', f.failure_code),
               to_jsonb(f)
        FROM jobs.job_failures f WHERE f.tenant_id = p_tenant_id AND f.job_id = p_job_id
        UNION ALL
        SELECT 'job_criterion_counts', jsonb_build_object('criterion', c.criterion, 'stage', c.stage),
               to_jsonb(c)
        FROM jobs.job_criterion_counts c WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
    ), stored_counts AS (
        SELECT r.table_name, r.key, v.key AS column_name, v.value::bigint AS value
        FROM stored_rows r CROSS JOIN jsonb_each_text(r.columns) v
        WHERE v.key IN ('queued', 'in_progress', 'succeeded', 'failed', 'timed_out', 'rejected',
                        'retrying', 'retrying_in_progress', 'retried_devices', 'failures',
                        'finished_before', 'executions', 'release_end')
    ), counted_counts AS (
        SELECT r.table_name, r.key, v.key AS column_name, v.value::bigint AS value
        FROM counted_rows r CROSS JOIN jsonb_each_text(r.counts) v
    )
    SELECT table_name, key, column_name, coalesce(s.value, 0), coalesce(c.value, 0)
    FROM stored_counts s
    FULL JOIN counted_counts c USING (table_name, key, column_name)
    WHERE coalesce(s.value, 0) <> coalesce(c.value, 0);
END $$;
