-- Returns whether a job has used up its retry budget, so that its failures are final: more than 20 devices and
-- more than 10 percent of the released ones have needed a retry.
CREATE OR REPLACE FUNCTION jobs.exceeds_retry_budget(
    retried_devices bigint, released bigint
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN retried_devices > 20 AND retried_devices * 10 > released;
