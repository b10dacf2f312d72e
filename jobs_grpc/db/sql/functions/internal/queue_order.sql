-- Returns the sort key of a priority in the queue of a device: the lowest comes first.
CREATE OR REPLACE FUNCTION jobs.queue_order(
    priority text  -- of Job.Priority; NULL: NORMAL
) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN priority = 'HIGH' THEN -1 WHEN priority = 'LOW' THEN 1 ELSE 0 END;
