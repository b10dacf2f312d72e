-- Returns the current time, which passes during a transaction. See now.
CREATE OR REPLACE FUNCTION jobs.clock_time() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pg_catalog.clock_timestamp();
