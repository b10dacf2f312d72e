-- Returns the latest start that a job can get at p_now: the maximum that the contract declares in words for start_at.
CREATE OR REPLACE FUNCTION jobs.latest_start(p_now timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN p_now + interval '2160 hours';  -- 90 days
