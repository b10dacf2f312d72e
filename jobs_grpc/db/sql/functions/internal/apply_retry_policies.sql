-- depends on: change_retrying_counts, count_stage_changes, due_at, exceeds_retry_budget, is_expired_at, released_at, retry_backoff, retry_rule, uncount_failures
-- Queues the next attempt of executions that have just failed, if the retry policy of their job allows it.
-- A device counts as failed from its first failure until an attempt succeeds, and only once: when an attempt
-- ends, this function removes the device's earlier failure from the counts. The caller holds the job locks,
-- has set the tenant, and has counted the updates, but has neither completed jobs nor applied rules.
--
-- A separate function, so that only batches with a job that has a policy pay for it.
CREATE OR REPLACE FUNCTION jobs.apply_retry_policies(
    p_tenant_id text,
    p_updates jobs.decided_update[],
    p_now timestamptz
) RETURNS timestamptz[]  -- by decided_update.n: failed_at before the update; NULL: it did not count as failed
LANGUAGE plpgsql
AS $$
DECLARE
    v_failed_ats timestamptz[] := '{}';
    v_job record;
    v_executions jobs.decided_retry[];
    v_execution jobs.decided_retry;
BEGIN
    FOR v_job IN
        SELECT j.*
        FROM (
            SELECT DISTINCT u.job_id FROM unnest(p_updates) u WHERE u.outcome = 'APPLIED'
        ) u
        CROSS JOIN LATERAL (
            SELECT j.job_id, j.retry_policy, j.expires_at, j.canceled_at IS NOT NULL AS is_canceled,
                   j.start_windows, j.window_time_zone,
                   jobs.released_at(
                       j.release_end, j.release_base, j.release_rate, j.release_since, j.paused_at,
                       p_now
                   ) AS released
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = u.job_id AND j.retry_policy IS NOT NULL
            OFFSET 0
        ) j
    LOOP
        SELECT array_agg(ROW(
            d.n, d.row_id, d.device_id, d.stage, d.old_status, d.status, d.failure_code,
            d.failed_status, d.failed_code, d.failed_at, d.needs_first_retry, d.needs_retry,
            CASE WHEN d.needs_retry AND NOT jobs.exceeds_retry_budget(
                d.retried_devices, d.released
            ) THEN d.not_before END
        )::jobs.decided_retry)
        INTO v_executions
        FROM (
            -- retried_devices includes the earlier failures of the batch, so the budget holds within it.
            SELECT e.*, e.needs_retry AND e.retries = 0 AS needs_first_retry,
                   p.retried_devices + count(*) FILTER (WHERE e.needs_retry AND e.retries = 0)
                       OVER (ORDER BY e.n ROWS UNBOUNDED PRECEDING) AS retried_devices,
                   coalesce(v_job.released, p.total) AS released
            FROM (
                SELECT u.n, u.stored_status AS old_status, e.*, next.not_before,
                       coalesce(
                           NOT v_job.is_canceled AND e.retries + 1 < next.max_attempts
                           AND NOT jobs.is_expired_at(
                               v_job.expires_at,
                               jobs.due_at(
                                   next.not_before, v_job.start_windows,
                                   coalesce(v_job.window_time_zone, e.time_zone, 'UTC'), p_now
                               )
                           ),
                           false
                       ) AS needs_retry
                FROM unnest(p_updates) u
                CROSS JOIN LATERAL (
                    SELECT e.ctid AS row_id, e.device_id, e.stage, e.status, e.failure_code,
                           e.failed_status, e.failed_code, e.failed_at, e.retries, e.time_zone
                    FROM jobs.job_executions e
                    WHERE e.tenant_id = p_tenant_id AND e.job_id = v_job.job_id
                      AND e.device_id = u.device_id
                    OFFSET 0
                ) e
                LEFT JOIN LATERAL (
                    SELECT (r.rule -> 'max_attempts')::integer AS max_attempts,
                           p_now + jobs.retry_backoff(r.rule, e.retries) AS not_before
                    FROM (
                        SELECT jobs.retry_rule(
                            v_job.retry_policy, e.status::text, e.failure_code
                        ) AS rule
                        OFFSET 0
                    ) r
                    WHERE r.rule IS NOT NULL
                    OFFSET 0
                ) next ON e.status IN ('FAILED', 'TIMED_OUT', 'REJECTED')
                WHERE u.outcome = 'APPLIED' AND u.job_id = v_job.job_id
                  AND u.stored_status <> u.new_status
                OFFSET 0
            ) e
            CROSS JOIN LATERAL (
                SELECT p.retried_devices,
                       p.queued + p.in_progress + p.succeeded + p.failed + p.timed_out + p.rejected
                           AS total
                FROM jobs.job_progress p
                WHERE p.tenant_id = p_tenant_id AND p.job_id = v_job.job_id
                OFFSET 0
            ) p
        ) d;

        -- The earlier failures of devices that have finished another attempt.
        PERFORM jobs.uncount_failures(
            p_tenant_id, v_job.job_id, array_agg(e.failed_status), array_agg(e.failed_code),
            array_agg(e.stage), array_agg(e.failed_at)
        )
        FROM unnest(v_executions) e
        WHERE e.failed_at IS NOT NULL AND e.status <> 'IN_PROGRESS'
        HAVING count(*) > 0;

        INSERT INTO jobs.execution_attempts
            (tenant_id, job_id, device_id, execution_number, version, status, queued_at, started_at,
             last_updated_at, status_details, failure_code, end_cause, reported_by)
        SELECT p_tenant_id, v_job.job_id, e.device_id, e.execution_number, e.version, e.status,
               e.queued_at, e.started_at, e.last_updated_at, e.status_details, e.failure_code,
               e.end_cause, e.reported_by
        FROM unnest(v_executions) failed
        CROSS JOIN LATERAL (
            SELECT e.*
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = v_job.job_id
              AND e.device_id = failed.device_id
            OFFSET 0
        ) e
        WHERE failed.not_before IS NOT NULL;
        -- One by one: with a join, the planner may read all executions of the tenant instead of looking each up by
        -- its ctid.
        FOREACH v_execution IN ARRAY coalesce(v_executions, '{}') LOOP
            v_failed_ats[v_execution.n] := v_execution.failed_at;
            IF v_execution.not_before IS NOT NULL THEN
                UPDATE jobs.job_executions e
                SET status = 'QUEUED', execution_number = e.execution_number + 1,
                    version = e.version + 1, queued_at = p_now, started_at = NULL,
                    times_out_at = NULL, last_updated_at = p_now, status_details = NULL,
                    failure_code = NULL, retries = e.retries + 1,
                    not_before = v_execution.not_before, failed_status = v_execution.status,
                    failed_code = v_execution.failure_code, failed_at = p_now,
                    reported_by = NULL
                WHERE e.tenant_id = p_tenant_id AND e.ctid = v_execution.row_id;
            END IF;
        END LOOP;

        -- The row of a finished execution has its failure in status and failure_code.
        UPDATE jobs.job_executions e
        SET retries = e.retries + finished.needs_retry::integer, failed_status = NULL,
            failed_code = NULL, failed_at = NULL
        FROM unnest(v_executions) finished
        WHERE finished.not_before IS NULL AND finished.status <> 'IN_PROGRESS'
          AND (finished.failed_at IS NOT NULL OR finished.needs_retry)
          AND e.tenant_id = p_tenant_id AND e.ctid = finished.row_id;

        UPDATE jobs.job_progress p
        SET queued = p.queued + c.failed + c.timed_out + c.rejected, failed = p.failed - c.failed,
            timed_out = p.timed_out - c.timed_out, rejected = p.rejected - c.rejected,
            retries = p.retries + c.failed + c.timed_out + c.rejected,
            retried_devices = p.retried_devices + c.first_retries
        FROM (
            SELECT count(*) FILTER (WHERE e.is_retried AND e.status = 'FAILED') AS failed,
                   count(*) FILTER (WHERE e.is_retried AND e.status = 'TIMED_OUT') AS timed_out,
                   count(*) FILTER (WHERE e.is_retried AND e.status = 'REJECTED') AS rejected,
                   count(*) FILTER (WHERE e.needs_first_retry) AS first_retries
            FROM (
                SELECT e.not_before IS NOT NULL AS is_retried, e.status, e.needs_first_retry
                FROM unnest(v_executions) e
            ) e
        ) c
        WHERE p.tenant_id = p_tenant_id AND p.job_id = v_job.job_id
          AND (c.failed + c.timed_out + c.rejected > 0 OR c.first_retries > 0);
        PERFORM jobs.count_stage_changes(
            p_tenant_id, array_agg(v_job.job_id), array_agg(e.stage), array_agg(e.status),
            array_agg('QUEUED'::jobs.execution_status)
        )
        FROM unnest(v_executions) e
        WHERE e.not_before IS NOT NULL AND e.stage IS NOT NULL
        HAVING count(*) > 0;
        PERFORM jobs.change_retrying_counts(
            p_tenant_id, array_agg(v_job.job_id), array_agg(e.stage),
            array_agg(
                (e.not_before IS NOT NULL OR e.failed_at IS NOT NULL AND e.status = 'IN_PROGRESS')::integer
                - (e.failed_at IS NOT NULL)::integer
            ),
            array_agg(CASE WHEN e.failed_at IS NULL THEN 0
                           ELSE (e.status = 'IN_PROGRESS')::integer
                                - (e.old_status = 'IN_PROGRESS')::integer END)
        )
        FROM unnest(v_executions) e
        WHERE e.not_before IS NOT NULL OR e.failed_at IS NOT NULL
        HAVING count(*) > 0;
    END LOOP;
    RETURN v_failed_ats;
END $$;
