-- depends on: jitter
-- Returns the time between a failure and the next attempt: random, and at most the backoff of the rule
-- ("full jitter"), so that devices that failed together do not return together.
CREATE OR REPLACE FUNCTION jobs.retry_backoff(
    p_rule jsonb,     -- see retry_rule
    p_retries integer -- that the device has needed before
) RETURNS interval
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN make_interval(secs => jobs.jitter() * least(
    (p_rule ->> 'max_backoff_seconds')::double precision,
    (p_rule ->> 'initial_backoff_seconds')::double precision
        * (p_rule ->> 'backoff_multiplier')::double precision ^ p_retries
));
