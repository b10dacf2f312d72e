-- Applies the retry policies of jobs to the failures among the changes of a batch. Returns all changes, and sets
-- in each failure that a policy retries: needs_retry, and not_before, the earliest start of the next attempt,
-- unless the retry budget is exhausted. Stores the attempts that ended with a not_before in execution_attempts:
-- change_executions then overwrites their rows with the next attempt. The caller holds the job locks and has set
-- the tenant.
CREATE OR REPLACE FUNCTION jobs.decide_retries(
    p_tenant_id text,
    p_changes jobs.execution_change[],
    p_now timestamptz
) RETURNS jobs.execution_change[]
LANGUAGE plpgsql
AS $$
DECLARE
    v_retry record;
BEGIN
    FOR v_retry IN
        SELECT f.index,
               CASE WHEN NOT jobs.exceeds_retry_budget(
                   -- Includes the devices of earlier changes of the batch, so the budget holds within it.
                   f.retried_devices + count(*) FILTER (WHERE f.retries = 0) OVER (
                       PARTITION BY f.job_id ORDER BY f.index ROWS UNBOUNDED PRECEDING
                   ),
                   f.released
               ) THEN f.not_before END AS not_before
        FROM (
            SELECT c.ordinality AS index, c.job_id, c.retries, next.not_before, p.retried_devices,
                   coalesce(j.released, p.total) AS released
            FROM unnest(p_changes) WITH ORDINALITY c
            CROSS JOIN LATERAL (
                SELECT j.retry_policy, j.expires_at, j.canceled_at, j.start_windows, j.window_time_zone,
                       jobs.released_count_at(j.release, p_now) AS released
                FROM jobs.jobs_with_release j
                WHERE j.tenant_id = p_tenant_id AND j.job_id = c.job_id
                OFFSET 0
            ) j
            CROSS JOIN LATERAL (
                SELECT p.retried_devices,
                       p.queued + p.in_progress + p.succeeded + p.failed + p.timed_out + p.rejected
                           AS total
                FROM jobs.job_progress p
                WHERE p.tenant_id = p_tenant_id AND p.job_id = c.job_id
                OFFSET 0
            ) p
            CROSS JOIN LATERAL (
                SELECT (r.rule -> 'max_attempts')::integer AS max_attempts,
                       p_now + jobs.retry_backoff(r.rule, c.retries) AS not_before
                FROM (
                    SELECT jobs.retry_rule(j.retry_policy, c.new_status::text, c.failure_code) AS rule
                    OFFSET 0
                ) r
                WHERE r.rule IS NOT NULL
                OFFSET 0
            ) next
            WHERE c.outcome = 'APPLIED' AND c.failure_code IS NOT NULL AND j.canceled_at IS NULL
              AND c.retries + 1 < next.max_attempts
              AND NOT jobs.is_expired_at(
                  j.expires_at,
                  jobs.due_at(
                      next.not_before, j.start_windows, coalesce(j.window_time_zone, c.time_zone, 'UTC'),
                      p_now
                  )
              )
            OFFSET 0
        ) f
    LOOP
        p_changes[v_retry.index].needs_retry := true;
        p_changes[v_retry.index].not_before := v_retry.not_before;
    END LOOP;

    INSERT INTO jobs.execution_attempts
        (tenant_id, job_id, device_id, execution_number, version, status, queued_at, started_at,
         last_updated_at, status_details, failure_code, /* for each reported FIELD: FIELD */)
    SELECT p_tenant_id, c.job_id, c.device_id, c.execution_number, e.version + 1, c.new_status,
           e.queued_at, e.started_at, p_now, coalesce(c.status_details, e.status_details),
           c.failure_code, /* for each reported FIELD: coalesce(c.FIELD, e.FIELD) */
    FROM unnest(p_changes) c
    CROSS JOIN LATERAL (
        SELECT e.version, e.queued_at, e.started_at, e.status_details, /* for each reported FIELD: e.FIELD */
        FROM jobs.job_executions e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = c.job_id AND e.device_id = c.device_id
        OFFSET 0
    ) e
    WHERE c.not_before IS NOT NULL;
    RETURN p_changes;
END $$;
