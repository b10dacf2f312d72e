-- Returns the values of a term "key in (…)" as texts "key=value", as in jobs.job_labels: of the term
-- that the fewest jobs match. Counts at most 1,000 jobs of a term. Returns NULL if the selector has no
-- such term. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.rarest_labels(
    p_tenant_id text,
    p_terms jsonb  -- see matches_selector
) RETURNS text[]
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
DECLARE
    v_terms jsonb := jsonb_path_query_array(p_terms, '$[*] ? (@.op == "in")');
    v_term jsonb;
    v_labels text[];
    v_rarest text[];
    v_count integer;
    v_least integer := 1000;
BEGIN
    FOR v_term IN SELECT t.term FROM jsonb_array_elements(v_terms) AS t (term) LOOP
        v_labels := ARRAY(
            SELECT v_term ->> 'key' || '=' || v.value
            FROM jsonb_array_elements_text(v_term -> 'values') AS v (value)
        );
        IF jsonb_array_length(v_terms) = 1 THEN
            RETURN v_labels;
        END IF;
        SELECT count(*) INTO v_count
        FROM (
            SELECT FROM jobs.job_labels l
            WHERE l.tenant_id = p_tenant_id AND l.label = ANY (v_labels)
            LIMIT v_least
        ) l;
        IF v_rarest IS NULL OR v_count < v_least THEN
            v_rarest := v_labels;
            v_least := v_count;
        END IF;
    END LOOP;
    RETURN v_rarest;
END $$;
