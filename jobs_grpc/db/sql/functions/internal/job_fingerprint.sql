-- depends on: is_expired_at, released_at, text_fingerprint
-- Returns a 60-bit hash that changes when readers would see another state of a job. A transaction that
-- changes executions, stages or criteria also writes a new version of the row of the job or of its
-- counts. Time alone changes only whether the job has expired, and the number of released executions.
CREATE OR REPLACE FUNCTION jobs.job_fingerprint(
    job_version xid,       -- xmin of the row in jobs.jobs
    progress_version xid,  -- xmin of the row in jobs.job_progress
    expires_at timestamptz,
    release_end integer,
    release_base integer,
    release_rate integer,
    release_since timestamptz,
    paused_at timestamptz,
    at timestamptz
) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jobs.text_fingerprint(
    job_version::text || ' ' || progress_version::text
    || CASE WHEN jobs.is_expired_at(expires_at, at) THEN ' expired ' ELSE ' ' END
    || coalesce(
        jobs.released_at(
            release_end, release_base, release_rate, release_since, paused_at, at
        )::text, ''
    )
);
