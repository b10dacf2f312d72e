-- Returns a time as a position: microseconds since 1970-01-01 UTC. Events that were stored at this time or
-- later have this position or a larger one.
CREATE OR REPLACE FUNCTION jobs.event_position(t timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jobs.pg_micros(t) + 946684800000000;
