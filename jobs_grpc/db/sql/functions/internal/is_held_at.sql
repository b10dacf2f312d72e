-- depends on: released_count_at
-- Returns whether an execution whose status would otherwise be QUEUED is HELD at the time `at`: its job
-- has not started, or the rollout has not released its rank yet.
CREATE OR REPLACE FUNCTION jobs.is_held_at(
    rank integer,                -- NULL without a rollout
    release_end integer,
    release_base integer,
    release_rate integer,
    release_since timestamptz,   -- NULL: neither a rollout nor a start time
    paused_at timestamptz,
    at timestamptz
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN release_since IS NOT NULL
    AND coalesce(
        coalesce(rank, 1) > jobs.released_count_at(
            release_end, release_base, release_rate, release_since, paused_at, at
        ),
        false
    );
