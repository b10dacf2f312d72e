-- Returns whether the filters of a retry select an execution, apart from its status.
CREATE OR REPLACE FUNCTION jobs.matches_retry(
    failure_code text,
    device_id text,
    failure_codes text[],  -- of the retry; NULL: all
    device_ids text[]      -- of the retry; NULL: all
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (failure_codes IS NULL OR failure_code = ANY (failure_codes))
    AND (device_ids IS NULL OR device_id = ANY (device_ids));
