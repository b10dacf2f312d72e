-- Returns whether labels match all terms of a selector. As in Kubernetes, labels without the key match
-- not_in and not_exists.
CREATE OR REPLACE FUNCTION jobs.matches_selector(
    p_labels jsonb,  -- NULL: none
    p_terms jsonb    -- [{"key", "op": in, not_in, exists or not_exists, "values"}], see selectors.py
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN NOT EXISTS (
    SELECT FROM jsonb_array_elements(p_terms) AS term
    WHERE coalesce(
        CASE WHEN term ->> 'op' IN ('in', 'not_in')
             THEN term -> 'values' ? (p_labels ->> (term ->> 'key'))
             ELSE p_labels ? (term ->> 'key') END,
        false
    ) <> (term ->> 'op' IN ('in', 'exists'))
);
