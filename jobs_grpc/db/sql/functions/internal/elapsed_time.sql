-- Returns the time from `since` to `until` in hours. The difference of two times has days as well: added to a third
-- time, each has 23 or 25 hours if the clocks of the session's time zone change that day.
CREATE OR REPLACE FUNCTION jobs.elapsed_time(since timestamptz, until timestamptz) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN make_interval(secs => date_part('epoch', until - since));
