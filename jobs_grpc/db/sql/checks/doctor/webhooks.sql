-- Counts the webhooks of all tenants. $1: the ids of the master keys that the server has.
SELECT
    count(*) FILTER (WHERE enabled) AS enabled,
    count(*) FILTER (WHERE enabled AND failing_since IS NOT NULL) AS failing,
    -- No response came from the endpoint.
    count(*) FILTER (
        WHERE enabled AND last_error IN ('TIMEOUT', 'HOST_NOT_FOUND', 'CONNECTION_FAILED')
    ) AS unreachable,
    count(*) FILTER (WHERE disabled_cause IN ('FAILING', 'GONE')) AS disabled,
    count(*) FILTER (WHERE enabled AND key_id <> ALL ($1::text[])) AS without_key
FROM jobs.webhooks
