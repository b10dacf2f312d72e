-- Returns what ended an execution: a JobExecution.EndCause, or NULL if it is pending. The stored cause is
-- NULL if the other columns tell: devices report without writing it, and so did timeouts of earlier versions.
CREATE OR REPLACE FUNCTION jobs.end_cause(
    status jobs.execution_status,  -- as readers see it
    failure_code text,
    stored_cause text,
    ended_by_job boolean  -- the cancel of the job ended it; matters only for REJECTED
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN status IN ('QUEUED', 'IN_PROGRESS') THEN NULL
    WHEN stored_cause IS NOT NULL THEN stored_cause
    WHEN failure_code IS NOT NULL THEN CASE WHEN status = 'TIMED_OUT' THEN 'TIMEOUT' ELSE 'DEVICE' END
    WHEN status = 'TIMED_OUT' THEN 'JOB_EXPIRED'
    WHEN status = 'REJECTED'
        THEN CASE WHEN ended_by_job THEN 'JOB_CANCELED' ELSE 'EXECUTION_CANCELED' END
    ELSE 'DEVICE'
END;
