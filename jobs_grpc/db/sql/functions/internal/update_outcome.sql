-- Decides what a device's update does to its execution: APPLIED, REPEATED (the execution is in
-- that state already), or the ErrorReason of the error.
CREATE OR REPLACE FUNCTION jobs.update_outcome(
    current_status jobs.execution_status,  -- as readers see it; NULL: no such execution
    current_details jsonb,
    current_failure_code text,
    current_number integer,
    current_version integer,
    finished_without_report boolean,       -- the device did not report a terminal current_status
    is_held boolean,                       -- not released; only if current_status is QUEUED
    job_is_paused boolean,
    is_waiting boolean,                    -- see is_waiting_at; matters only if the update would start it
    reported_status jobs.execution_status, -- NULL: the device starts the execution
    reported_details jsonb,                -- NULL: keep current_details
    reported_failure_code text,            -- NULL: none
    cancel_accepted boolean,               -- the device ends it because the job was canceled
    job_is_canceled boolean,
    expected_number integer,               -- NULL: any
    expected_version integer               -- NULL: any
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN current_status IS NULL THEN 'EXECUTION_NOT_FOUND'
    WHEN is_held THEN 'EXECUTION_HELD'
    WHEN reported_status IS NULL AND current_status = 'IN_PROGRESS' THEN 'REPEATED'
    WHEN expected_number <> current_number THEN 'EXECUTION_CHANGED'
    -- Checked before expected_version, because the first of two equal reports has already increased
    -- the version.
    WHEN current_status = reported_status AND current_status NOT IN ('QUEUED', 'IN_PROGRESS')
         AND NOT finished_without_report
         AND coalesce(reported_details = current_details, reported_details IS NULL)
         AND coalesce(reported_failure_code, '') = coalesce(current_failure_code, '')
         -- A device that accepts a cancel has not failed: failure_code is NULL.
         AND (cancel_accepted = (current_failure_code IS NULL) OR current_status <> 'REJECTED')
         THEN 'REPEATED'
    WHEN expected_version <> current_version THEN 'EXECUTION_CHANGED'
    WHEN current_status NOT IN ('QUEUED', 'IN_PROGRESS') THEN 'EXECUTION_FINISHED'
    WHEN cancel_accepted AND NOT job_is_canceled THEN 'CANCEL_NOT_REQUESTED'
    -- A device may end an execution that it never started, but not start it.
    WHEN current_status = 'QUEUED' AND coalesce(reported_status, 'IN_PROGRESS') = 'IN_PROGRESS'
         THEN CASE WHEN job_is_paused THEN 'JOB_PAUSED'
                   WHEN is_waiting THEN 'EXECUTION_NOT_DUE'
                   ELSE 'APPLIED' END
    ELSE 'APPLIED'
END;
