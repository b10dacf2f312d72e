-- Returns a random number of at least 0 and below 1. Tests replace this function, as they replace now.
CREATE OR REPLACE FUNCTION jobs.jitter() RETURNS double precision
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pg_catalog.random();
