-- Returns whether a job has expired at the time `at`. Without expires_at, it never expires.
--
-- PostgreSQL inlines the function, so that `expires_at <= at` can be the condition of an index.
CREATE OR REPLACE FUNCTION jobs.is_expired_at(
    expires_at timestamptz, at timestamptz
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN expires_at IS NOT NULL AND expires_at <= at;
