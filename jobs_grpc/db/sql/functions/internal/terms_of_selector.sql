-- Returns the terms of a selector. Fails if they are missing: without terms, a selector matches all devices.
CREATE OR REPLACE FUNCTION jobs.terms_of_selector(selector_terms jsonb, selector text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_path_query_first(
    coalesce(selector_terms, '{}'), format('strict $.%s', to_json(selector))::jsonpath
);
