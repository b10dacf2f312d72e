-- Adds executions.finished events for the attempts that changes have ended, of jobs with execution_events: one
-- event for each job, or several for more than 100 attempts or about 16 KiB of details. The caller holds the job
-- locks, has set the tenant, and has counted the changes.
CREATE OR REPLACE FUNCTION jobs.add_finished_events(
    p_tenant_id text,
    p_changes jobs.execution_change[],
    p_now timestamptz,
    p_user_id text  -- whose call has ended them; NULL: unknown, or none
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_event record;
BEGIN
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
                    SELECT c.job_id, c.n,
                           format(
                               '{"device_id": %s, "status": "%s", "execution_number": %s%s%s}',
                               to_json(c.device_id), c.new_status, c.execution_number,
                               ', "failure_code": ' || to_json(nullif(c.failure_code, '')),
                               CASE WHEN c.not_before IS NOT NULL THEN ', "will_retry": true' END
                           ) AS attempt
                    FROM unnest(p_changes) c
                    WHERE c.outcome = 'APPLIED' AND c.execution_events
                      AND c.new_status <> 'IN_PROGRESS'
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
