-- Returns a time as the number of microseconds since 2000-01-01 UTC, as the server gets the columns
-- of a row.
CREATE OR REPLACE FUNCTION jobs.pg_micros(t timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (extract(epoch FROM t) * 1000000)::bigint - 946684800000000;
