-- Counts the webhooks of all tenants. $1: the ids of the master keys that the server has.
SELECT
    count(*) FILTER (WHERE enabled) AS enabled,
    count(*) FILTER (WHERE enabled AND failure_count > 0) AS retrying,
    -- No response came from the endpoint.
    count(*) FILTER (
        WHERE enabled AND last_error IN ('TIMEOUT', 'HOST_NOT_FOUND', 'CONNECTION_FAILED')
    ) AS unreachable,
    count(*) FILTER (WHERE disabled_cause IN ('RETRIES_EXHAUSTED', 'GONE')) AS disabled,
    count(*) FILTER (WHERE enabled AND key_id <> ALL ($1::text[])) AS without_key
FROM jobs.webhooks
