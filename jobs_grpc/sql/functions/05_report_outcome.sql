-- What becomes of a device's report: APPLIED, REPEATED (it is what is stored already), or
-- the ErrorReason that it meets.
CREATE OR REPLACE FUNCTION jobs.report_outcome(
    present jobs.execution_status,       -- as a reader sees it; NULL: no such execution
    present_details jsonb,
    present_number integer,
    present_version integer,
    reported jobs.execution_status,
    reported_details jsonb,              -- NULL: keep
    expected_number integer,             -- NULL: any
    expected_version integer             -- NULL: any
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN present IS NULL THEN 'EXECUTION_NOT_FOUND'
    WHEN expected_number <> present_number THEN 'EXECUTION_CHANGED'
    -- Before the version: the first such report has raised it.
    WHEN present = reported AND present NOT IN ('QUEUED', 'IN_PROGRESS')
         AND coalesce(reported_details = present_details, reported_details IS NULL) THEN 'REPEATED'
    WHEN expected_version <> present_version THEN 'EXECUTION_CHANGED'
    WHEN present NOT IN ('QUEUED', 'IN_PROGRESS') THEN 'EXECUTION_OVER'
    ELSE 'APPLIED'
END;
