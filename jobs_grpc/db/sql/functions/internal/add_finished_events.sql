-- depends on: add_event
-- Adds executions.finished events for attempts that have just ended: for each job with execution_events, one
-- event per 100 attempts. The caller holds the job locks, has set the tenant, has changed and counted the
-- executions, and has applied the retry policy. A separate function, so that only batches with such a job pay
-- for it.
CREATE OR REPLACE FUNCTION jobs.add_finished_events(
    p_tenant_id text,
    p_job_ids text[],        -- the first four arrays are parallel, with one element per attempt
    p_device_ids text[],
    p_statuses text[],       -- of the attempts
    p_failure_codes text[],  -- NULL elements: none
    p_now timestamptz,
    p_user_id text DEFAULT NULL  -- whose call has ended them; NULL: unknown, or none
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    v_event record;
BEGIN
    FOR v_event IN
        SELECT a.job_id,
               jsonb_agg(
                   jsonb_build_object(
                       'device_id', a.device_id, 'status', a.status,
                       'failure_code', coalesce(a.failure_code, ''),
                       'execution_number', a.execution_number - a.will_retry::integer,
                       'will_retry', a.will_retry
                   )
                   ORDER BY a.n
               ) AS executions
        FROM (
            SELECT u.*, e.execution_number, e.status = 'QUEUED' AS will_retry,
                   (row_number() OVER (PARTITION BY u.job_id ORDER BY u.n) - 1) / 100 AS event
            FROM unnest(p_job_ids, p_device_ids, p_statuses, p_failure_codes) WITH ORDINALITY
                AS u (job_id, device_id, status, failure_code, n)
            CROSS JOIN LATERAL (
                SELECT
                FROM jobs.jobs j
                WHERE j.tenant_id = p_tenant_id AND j.job_id = u.job_id AND j.execution_events
                OFFSET 0
            ) j
            CROSS JOIN LATERAL (
                -- If the retry policy has queued the next attempt, this is that one.
                SELECT e.execution_number, e.status
                FROM jobs.job_executions e
                WHERE e.tenant_id = p_tenant_id AND e.job_id = u.job_id AND e.device_id = u.device_id
                OFFSET 0
            ) e
        ) a
        GROUP BY a.job_id, a.event
        ORDER BY a.job_id, a.event
    LOOP
        PERFORM jobs.add_event(
            p_tenant_id, v_event.job_id, p_now, 'executions.finished', p_user_id,
            jsonb_build_object('executions', v_event.executions)
        );
    END LOOP;
END $$;
