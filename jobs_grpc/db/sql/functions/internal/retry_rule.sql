-- Returns the first rule of a retry policy that matches a failure. NULL: none, so the failure is final.
-- Empty statuses or failure_codes match all, but only a rule that names codes matches REJECTED.
CREATE OR REPLACE FUNCTION jobs.retry_rule(
    p_policy jsonb,  -- [{"statuses", "failure_codes", "max_attempts", …}]
    p_status text,
    p_failure_code text
) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT r.rule
    FROM jsonb_array_elements(p_policy) WITH ORDINALITY AS r (rule, n)
    CROSS JOIN LATERAL (
        SELECT coalesce(r.rule -> 'statuses', '[]') AS statuses,
               coalesce(r.rule -> 'failure_codes', '[]') AS failure_codes
        OFFSET 0
    ) f
    WHERE (f.statuses = '[]' OR f.statuses ? p_status)
      AND (f.failure_codes ? p_failure_code
           OR f.failure_codes = '[]' AND p_status <> 'REJECTED')
    ORDER BY r.n
    LIMIT 1
);
