-- What becomes of a device's update: APPLIED, REPEATED (it is so already), or the
-- ErrorReason that it meets.
CREATE OR REPLACE FUNCTION jobs.update_outcome(
    present jobs.execution_status,       -- as a reader sees it; NULL: no such execution
    present_details jsonb,
    present_number integer,
    present_version integer,
    ended_by_operator boolean,           -- a final `present` is not what the device reported
    reported jobs.execution_status,      -- NULL: the device starts it
    reported_details jsonb,              -- NULL: keep
    expected_number integer,             -- NULL: any
    expected_version integer             -- NULL: any
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN present IS NULL THEN 'EXECUTION_NOT_FOUND'
    WHEN reported IS NULL AND present = 'IN_PROGRESS' THEN 'REPEATED'
    WHEN expected_number <> present_number THEN 'EXECUTION_CHANGED'
    -- Before the version: the first such report has raised it.
    WHEN present = reported AND present NOT IN ('QUEUED', 'IN_PROGRESS') AND NOT ended_by_operator
         AND coalesce(reported_details = present_details, reported_details IS NULL) THEN 'REPEATED'
    WHEN expected_version <> present_version THEN 'EXECUTION_CHANGED'
    WHEN present NOT IN ('QUEUED', 'IN_PROGRESS') THEN 'EXECUTION_FINISHED'
    ELSE 'APPLIED'
END;
