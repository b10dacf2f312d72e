-- Returns a time as the number of microseconds since 2000-01-01 UTC: the form in which the server
-- receives columns of type timestamptz.
CREATE OR REPLACE FUNCTION jobs.pg_micros(t timestamptz) RETURNS bigint
-- Of an interval, because date_part() of a timestamptz is not IMMUTABLE and would keep the planner from
-- inlining the function. Not extract(), because numeric is slow; double precision is exact until 2100.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (date_part('epoch', t - timestamptz '2000-01-01 00:00:00Z') * 1000000)::bigint;
