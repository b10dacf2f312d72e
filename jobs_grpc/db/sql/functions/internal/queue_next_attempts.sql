-- Copies the attempts that have a status and match the filters of a retry to execution_attempts, and queues the next
-- attempt in the row of each execution. Attempts that are stored as QUEUED timed out at p_expired_at. The caller holds
-- the job lock and counts the changes.
--
-- Executions of p_device_ids are looked up one by one: a device that joins again must not cost a read of all.
CREATE OR REPLACE FUNCTION jobs.queue_next_attempts(
    p_tenant_id text, p_job_id text,
    p_status jobs.execution_status,  -- as stored
    p_failure_codes text[],          -- NULL: all
    p_device_ids text[],             -- NULL: all
    p_expired_at timestamptz,
    p_now timestamptz
) RETURNS void
LANGUAGE plpgsql
-- settings: index, nested loops
AS $$
DECLARE
    v_condition text := format(
        'e.status = %L AND jobs.matches_retry(e.failure_code, e.device_id, $3, NULL)', p_status
    );
    v_executions text := CASE WHEN p_device_ids IS NULL
        THEN 'SELECT e.* FROM jobs.job_executions e WHERE e.tenant_id = $1 AND e.job_id = $2 AND '
        ELSE 'SELECT e.* FROM (SELECT DISTINCT unnest($4) AS device_id) u CROSS JOIN LATERAL ('
             'SELECT e.ctid AS row_id, e.* FROM jobs.job_executions e'
             ' WHERE e.tenant_id = $1 AND e.job_id = $2 AND e.device_id = u.device_id OFFSET 0'
             ') e WHERE '
        END || v_condition;
BEGIN
    -- EXECUTE: see retry_executions.
    EXECUTE format(
        $query$
        INSERT INTO jobs.execution_attempts
            (tenant_id, job_id, device_id, execution_number, version, status, queued_at,
             started_at, last_updated_at, status_details, failure_code, end_cause,
             /* for each reported FIELD: FIELD */)
        SELECT e.tenant_id, e.job_id, e.device_id, e.execution_number, e.version,
               CASE WHEN e.status = 'QUEUED' THEN 'TIMED_OUT' ELSE e.status END,
               e.queued_at, e.started_at,
               CASE WHEN e.status = 'QUEUED' THEN $5 ELSE e.last_updated_at END,
               CASE WHEN e.status = 'QUEUED' THEN $6 ELSE e.status_details END,
               e.failure_code, e.end_cause, /* for each reported FIELD: e.FIELD */
        FROM (%s) e
        $query$,
        v_executions
    ) USING p_tenant_id, p_job_id, p_failure_codes, p_device_ids, p_expired_at,
            jobs.final_status_details('TIMED_OUT', NULL);
    EXECUTE format(
        $query$
        UPDATE jobs.job_executions e
        SET status = 'QUEUED', execution_number = e.execution_number + 1,
            version = e.version + 1, queued_at = $5, started_at = NULL, times_out_at = NULL,
            last_updated_at = $5, status_details = NULL, canceled_by_operator = false,
            failure_code = NULL, end_cause = NULL, not_before = NULL, retries = 0,
            failed_status = NULL, failed_code = NULL, failed_at = NULL,
            /* for each reported FIELD: FIELD = NULL */
        %s
        WHERE e.tenant_id = $1 AND %s
        $query$,
        CASE WHEN p_device_ids IS NOT NULL THEN format('FROM (%s) found', v_executions) END,
        CASE WHEN p_device_ids IS NULL THEN 'e.job_id = $2 AND ' || v_condition
             ELSE 'e.ctid = found.row_id' END
    ) USING p_tenant_id, p_job_id, p_failure_codes, p_device_ids, p_now;
END $$;
