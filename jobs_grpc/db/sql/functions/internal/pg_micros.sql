-- Returns a time as the number of microseconds since 2000-01-01 UTC: the form in which the server
-- receives columns of type timestamptz.
CREATE OR REPLACE FUNCTION jobs.pg_micros(t timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (extract(epoch FROM t) * 1000000)::bigint - 946684800000000;
