-- depends on: add_event
-- Adds executions.finished events for attempts that have just ended, of jobs with execution_events: one event
-- for each job, or several for more than 100 attempts or about 16 KiB of details. The caller holds the job locks,
-- has set the tenant, has changed and counted the executions, and has applied the retry policies.
CREATE OR REPLACE FUNCTION jobs.add_finished_events(
    p_tenant_id text,
    p_attempts jobs.finished_attempt[],
    p_may_retry boolean,         -- a retry policy may have queued the next attempt
    p_now timestamptz,
    p_user_id text DEFAULT NULL  -- whose call has ended them; NULL: unknown, or none
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    v_will_retry boolean[];  -- parallel to p_attempts
    v_event record;
BEGIN
    IF p_may_retry THEN
        v_will_retry := ARRAY(
            SELECT e.will_retry
            FROM unnest(p_attempts) WITH ORDINALITY
                AS a (job_id, device_id, status, failure_code, execution_number, n)
            CROSS JOIN LATERAL (
                SELECT e.status = 'QUEUED' AS will_retry
                FROM jobs.job_executions e
                WHERE e.tenant_id = p_tenant_id AND e.job_id = a.job_id
                  AND e.device_id = a.device_id
                OFFSET 0
            ) e
            ORDER BY a.n
        );
    END IF;

    -- The JSON is written as text: jsonb_build_object takes twice as long. Fields with their default are left out.
    FOR v_event IN
        SELECT a.job_id,
               format('{"attempts": [%s]}', string_agg(a.attempt, ', ' ORDER BY a.n))::jsonb AS details
        FROM (
            SELECT a.job_id, a.n, a.attempt,
                   -- At most 100 attempts: none counts less than 150 bytes. At most 16 KiB: none has more
                   -- than 1,300 bytes.
                   (sum(a.size) OVER (PARTITION BY a.job_id ORDER BY a.n) - a.size) / 15000 AS part
            FROM (
                SELECT a.*, greatest(octet_length(a.attempt) + 2, 150) AS size
                FROM (
                    SELECT a.job_id, a.n,
                           format(
                               '{"device_id": %s, "status": "%s", "execution_number": %s%s%s}',
                               to_json(a.device_id), a.status, a.execution_number,
                               ', "failure_code": ' || to_json(nullif(a.failure_code, '')),
                               CASE WHEN v_will_retry[a.n] THEN ', "will_retry": true' END
                           ) AS attempt
                    FROM unnest(p_attempts) WITH ORDINALITY
                        AS a (job_id, device_id, status, failure_code, execution_number, n)
                ) a
            ) a
        ) a
        GROUP BY a.job_id, a.part
        ORDER BY min(a.n)
    LOOP
        PERFORM jobs.add_event(
            p_tenant_id, v_event.job_id, p_now, 'executions.finished', p_user_id, v_event.details
        );
    END LOOP;
END $$;
