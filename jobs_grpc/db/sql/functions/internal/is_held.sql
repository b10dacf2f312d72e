-- Returns whether an execution whose status would otherwise be QUEUED is HELD: its job has not started, or the
-- rollout has not released its rank yet. Before the start, 0 executions are released, which holds those without a rank,
-- too. If released is NULL, nothing is held.
CREATE OR REPLACE FUNCTION jobs.is_held(
    rank integer,     -- NULL without a rollout
    released integer  -- see released_count_at
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(coalesce(rank, 1) > released, false);
