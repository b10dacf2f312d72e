-- Returns a random number from 0 to below 1. A test can replace this function, as it can replace now.
CREATE OR REPLACE FUNCTION jobs.jitter() RETURNS double precision
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pg_catalog.random();
