-- Returns the backoff between a failure and the next attempt. It is random ("full jitter"), so that devices
-- that failed together do not try again together. Its maximum is initial_backoff, multiplied by
-- backoff_multiplier for each earlier retry, and at most max_backoff.
CREATE OR REPLACE FUNCTION jobs.retry_backoff(
    p_rule jsonb,     -- see retry_rule
    p_retries integer -- the number of retries before this one
) RETURNS interval
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN make_interval(secs => jobs.jitter() * least(
    (p_rule ->> 'max_backoff_seconds')::double precision,
    (p_rule ->> 'initial_backoff_seconds')::double precision
        * (p_rule ->> 'backoff_multiplier')::double precision ^ p_retries
));
