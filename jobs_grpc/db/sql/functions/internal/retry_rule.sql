-- Returns the first rule of a retry policy that matches a failure. NULL: none, so the failure is final.
-- Empty failure_codes match all.
CREATE OR REPLACE FUNCTION jobs.retry_rule(
    p_policy jsonb,  -- [{"statuses", "failure_codes", "max_attempts", …}]
    p_status text,
    p_failure_code text
) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT r.rule
    FROM jsonb_array_elements(p_policy) WITH ORDINALITY AS r (rule, n)
    WHERE r.rule -> 'statuses' ? p_status
      AND (r.rule -> 'failure_codes' = '[]' OR r.rule -> 'failure_codes' ? p_failure_code)
    ORDER BY r.n
    LIMIT 1
);
