-- depends on: released_at
-- Returns whether an execution whose status would otherwise be QUEUED is HELD at the time `at`, because
-- its rank is not released yet. False without a rollout.
CREATE OR REPLACE FUNCTION jobs.is_held_at(
    rank integer,
    release_end integer,
    release_base integer,
    release_rate integer,
    release_since timestamptz,
    paused_at timestamptz,
    at timestamptz
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN rank IS NOT NULL
    AND rank > jobs.released_at(
            release_end, release_base, release_rate, release_since, paused_at, at
        );
