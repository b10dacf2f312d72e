-- Returns whether a failure criterion counts a failure.
CREATE OR REPLACE FUNCTION jobs.matches_criterion(
    status jobs.execution_status,
    failure_code text,
    statuses jobs.execution_status[],  -- of the criterion; empty: all
    failure_codes text[]               -- of the criterion; empty: all
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (cardinality(statuses) = 0 OR status = ANY (statuses))
    AND (cardinality(failure_codes) = 0 OR failure_code = ANY (failure_codes));
