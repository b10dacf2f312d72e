-- Returns the time at which the transaction started. All SQL takes the time from this function and
-- clock_time, so that a test can move the time of its database by replacing both. PostgreSQL inlines
-- them.
CREATE OR REPLACE FUNCTION jobs.now() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.now();
