-- Adds what changes of executions contribute to the stored counts of their jobs: see docs/counts.md. Does not write
-- the executions. The caller holds the job locks and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.count_changes(
    p_tenant_id text,
    -- Either groups of executions of one job, without a device_id. Or the changes of change_executions, with a
    -- device_id: it has already updated the counts of statuses in job_progress, so this function leaves them out.
    p_changes jobs.execution_change[],
    p_now timestamptz
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    v_has_stages boolean;
    v_has_failures boolean;  -- this and the next: before or after the changes
    v_has_retries boolean;
    v_count record;
    v_job_id text;
    v_pairs integer;  -- how many pairs of status and code of this job have a row in job_failures
BEGIN
    IF p_changes[1].device_id IS NULL THEN
        UPDATE jobs.job_progress p
        SET queued = p.queued + c.queued, in_progress = p.in_progress + c.in_progress,
            succeeded = p.succeeded + c.succeeded, failed = p.failed + c.failed,
            timed_out = p.timed_out + c.timed_out, rejected = p.rejected + c.rejected
        FROM (
            SELECT coalesce(sum(c.executions) FILTER (WHERE c.status = 'QUEUED'), 0) AS queued,
                   coalesce(sum(c.executions) FILTER (WHERE c.status = 'IN_PROGRESS'), 0) AS in_progress,
                   coalesce(sum(c.executions) FILTER (WHERE c.status = 'SUCCEEDED'), 0) AS succeeded,
                   coalesce(sum(c.executions) FILTER (WHERE c.status = 'FAILED'), 0) AS failed,
                   coalesce(sum(c.executions) FILTER (WHERE c.status = 'TIMED_OUT'), 0) AS timed_out,
                   coalesce(sum(c.executions) FILTER (WHERE c.status = 'REJECTED'), 0) AS rejected
            FROM jobs.contributions(p_changes, p_now) c
        ) c
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_changes[1].job_id;
    END IF;

    SELECT bool_or(c.stage IS NOT NULL), bool_or(c.failed_at IS NOT NULL),
           bool_or(c.was_retried OR c.is_retrying)
    INTO v_has_stages, v_has_failures, v_has_retries
    FROM jobs.contributions(p_changes, p_now) c;

    -- One lookup per stage, then an update by ctid, as in change_executions.
    IF v_has_stages THEN
        UPDATE jobs.job_stages s
        SET queued = s.queued + c.queued, in_progress = s.in_progress + c.in_progress,
            succeeded = s.succeeded + c.succeeded, failed = s.failed + c.failed,
            timed_out = s.timed_out + c.timed_out, rejected = s.rejected + c.rejected,
            failures = greatest(s.failures + c.failures, 0), retrying = s.retrying + c.retrying,
            retrying_in_progress = s.retrying_in_progress + c.retrying_in_progress
        FROM (
            SELECT c.*, s.row_id
            FROM (
                SELECT c.job_id, c.stage,
                       coalesce(sum(c.executions) FILTER (WHERE c.status = 'QUEUED'), 0) AS queued,
                       coalesce(sum(c.executions) FILTER (WHERE c.status = 'IN_PROGRESS'), 0)
                           AS in_progress,
                       coalesce(sum(c.executions) FILTER (WHERE c.status = 'SUCCEEDED'), 0) AS succeeded,
                       coalesce(sum(c.executions) FILTER (WHERE c.status = 'FAILED'), 0) AS failed,
                       coalesce(sum(c.executions) FILTER (WHERE c.status = 'TIMED_OUT'), 0) AS timed_out,
                       coalesce(sum(c.executions) FILTER (WHERE c.status = 'REJECTED'), 0) AS rejected,
                       coalesce(sum(c.executions) FILTER (WHERE c.failed_at IS NOT NULL), 0) AS failures,
                       coalesce(sum(c.executions) FILTER (WHERE c.is_retrying), 0) AS retrying,
                       coalesce(
                           sum(c.executions) FILTER (WHERE c.is_retrying AND c.status = 'IN_PROGRESS'), 0
                       ) AS retrying_in_progress
                FROM jobs.contributions(p_changes, p_now) c
                WHERE c.stage IS NOT NULL
                GROUP BY c.job_id, c.stage
            ) c
            CROSS JOIN LATERAL (
                SELECT s.ctid AS row_id
                FROM jobs.job_stages s
                WHERE s.tenant_id = p_tenant_id AND s.job_id = c.job_id AND s.stage = c.stage
                OFFSET 0
            ) s
        ) c
        WHERE s.tenant_id = p_tenant_id AND s.ctid = c.row_id;
    END IF;

    IF v_has_retries THEN
        UPDATE jobs.job_progress p
        SET retries = p.retries + c.retries, retried_devices = p.retried_devices + c.retried_devices,
            retrying = p.retrying + c.retrying,
            retrying_in_progress = p.retrying_in_progress + c.retrying_in_progress
        FROM (
            SELECT c.*, p.row_id
            FROM (
                SELECT c.job_id,
                       -- Only grows: each attempt that a policy queues adds 1, and nothing subtracts it.
                       coalesce(sum(c.executions) FILTER (
                           WHERE c.executions > 0 AND c.is_retrying AND c.status = 'QUEUED'
                       ), 0) AS retries,
                       coalesce(sum(c.executions) FILTER (WHERE c.was_retried), 0) AS retried_devices,
                       coalesce(sum(c.executions) FILTER (WHERE c.is_retrying), 0) AS retrying,
                       coalesce(
                           sum(c.executions) FILTER (WHERE c.is_retrying AND c.status = 'IN_PROGRESS'), 0
                       ) AS retrying_in_progress
                FROM jobs.contributions(p_changes, p_now) c
                GROUP BY c.job_id
            ) c
            CROSS JOIN LATERAL (
                SELECT p.ctid AS row_id
                FROM jobs.job_progress p
                WHERE p.tenant_id = p_tenant_id AND p.job_id = c.job_id
                OFFSET 0
            ) p
        ) c
        WHERE p.tenant_id = p_tenant_id AND p.ctid = c.row_id;
    END IF;

    IF v_has_failures THEN
        FOR v_count IN
            SELECT c.job_id, c.failed_status AS status, c.failed_code, sum(c.executions) AS executions
            FROM jobs.contributions(p_changes, p_now) c
            WHERE c.failed_at IS NOT NULL
            GROUP BY c.job_id, c.failed_status, c.failed_code
            HAVING sum(c.executions) <> 0
            ORDER BY c.job_id, c.failed_status, c.failed_code
        LOOP
            -- greatest: if a stored count is wrong, a failure that it lacks can be subtracted from it. The device's
            -- report is still accepted.
            UPDATE jobs.job_failures f
            SET executions = greatest(f.executions + v_count.executions, 0)
            WHERE f.tenant_id = p_tenant_id AND f.job_id = v_count.job_id
              AND f.status = v_count.status AND f.failure_code = v_count.failed_code;
            CONTINUE WHEN FOUND;
            -- Up to 100 pairs of status and code have a row. The others are counted as '*'.
            UPDATE jobs.job_failures f
            SET executions = greatest(f.executions + v_count.executions, 0)
            WHERE f.tenant_id = p_tenant_id AND f.job_id = v_count.job_id
              AND f.status = v_count.status AND f.failure_code = '*';
            CONTINUE WHEN FOUND OR v_count.executions < 0;
            IF v_job_id IS DISTINCT FROM v_count.job_id THEN
                v_job_id := v_count.job_id;
                v_pairs := (
                    SELECT count(*)
                    FROM jobs.job_failures f
                    WHERE f.tenant_id = p_tenant_id AND f.job_id = v_job_id AND f.failure_code <> '*'
                );
            END IF;
            v_pairs := v_pairs + 1;
            INSERT INTO jobs.job_failures (tenant_id, job_id, status, failure_code, executions)
            VALUES (
                p_tenant_id, v_job_id, v_count.status,
                CASE WHEN v_pairs <= 100 THEN v_count.failed_code ELSE '*' END, v_count.executions
            );
        END LOOP;

        -- Not computed from job_failures, which counts some codes together as '*'.
        --
        -- finished_before only falls here, when a failure from before the restart no longer counts: all ends
        -- are after counts_since (see end_time), and restart_criteria counts those before it.
        FOR v_count IN
            SELECT f.job_id, c.criterion, CASE WHEN c.scope = 'STAGE' THEN f.stage ELSE -1 END AS stage,
                   coalesce(sum(f.executions) FILTER (
                       WHERE f.failed_at > c.counts_since AND jobs.matches_criterion(
                           f.failed_status, f.failed_code, c.statuses, c.failure_codes
                       )
                   ), 0) AS failures,
                   coalesce(sum(f.executions) FILTER (WHERE f.failed_at <= c.counts_since), 0)
                       AS finished_before
            FROM (
                SELECT c.job_id, c.stage, c.failed_status, c.failed_code, c.failed_at,
                       sum(c.executions) AS executions
                FROM jobs.contributions(p_changes, p_now) c
                WHERE c.failed_at IS NOT NULL
                GROUP BY c.job_id, c.stage, c.failed_status, c.failed_code, c.failed_at
                HAVING sum(c.executions) <> 0
            ) f
            CROSS JOIN LATERAL (
                SELECT c.criterion, c.scope, c.statuses, c.failure_codes, c.counts_since
                FROM jobs.job_failure_criteria c
                WHERE c.tenant_id = p_tenant_id AND c.job_id = f.job_id
                OFFSET 0
            ) c
            GROUP BY 1, 2, 3
        LOOP
            CONTINUE WHEN v_count.failures = 0 AND v_count.finished_before = 0;
            -- If the clock was set back before counts_since, it precedes failures that the restart took as earlier
            -- ones: they are subtracted from the wrong count, which greatest() keeps above 0.
            UPDATE jobs.job_criterion_counts n
            SET failures = greatest(n.failures + v_count.failures, 0),
                finished_before = greatest(n.finished_before + v_count.finished_before, 0)
            WHERE n.tenant_id = p_tenant_id AND n.job_id = v_count.job_id
              AND n.criterion = v_count.criterion AND n.stage = v_count.stage;
            -- No row: both counts are 0. So no failure from before counts_since exists that could be removed.
            IF NOT FOUND AND v_count.failures > 0 THEN
                INSERT INTO jobs.job_criterion_counts (tenant_id, job_id, criterion, stage, failures)
                VALUES (p_tenant_id, v_count.job_id, v_count.criterion, v_count.stage, v_count.failures);
            END IF;
        END LOOP;
    END IF;
END $$;
