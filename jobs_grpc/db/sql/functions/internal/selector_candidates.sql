-- Returns the devices that `device_id` terms name or, otherwise, the members of the selector's groups, from
-- p_first to before p_end in the order of device_id, and the terms still to check. The list is complete up
-- to complete_up_to; NULL: it is complete. device_ids is NULL if no term limits the devices.
--
-- Reads about p_max_examined memberships, or fewer if they fill a page of p_limit. The caller has set
-- the tenant.
CREATE OR REPLACE FUNCTION jobs.selector_candidates(
    p_tenant_id text,
    p_terms jsonb,  -- as Selector.terms_json of services/selectors.py
    p_first text,
    p_end text,
    p_limit integer,
    p_max_examined integer,
    OUT device_ids text[],
    OUT complete_up_to text,
    OUT other_terms jsonb
)
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
BEGIN
    SELECT ARRAY(
               SELECT v.device_id
               FROM jsonb_array_elements_text(t.term -> 'values') AS v (device_id)
               WHERE v.device_id COLLATE "C" >= p_first AND v.device_id COLLATE "C" < p_end
               ORDER BY v.device_id COLLATE "C"
           ),
           p_terms - (t.position - 1)::integer
    INTO device_ids, other_terms
    FROM jsonb_array_elements(p_terms) WITH ORDINALITY AS t (term, position)
    WHERE t.term ->> 'key' = 'device_id' AND t.term ->> 'op' = 'in'
    LIMIT 1;
    IF FOUND THEN
        RETURN;
    END IF;

    -- The term whose list is complete up to the greatest device_id has the fewest members. Only three
    -- terms, those with the fewest groups, so that enough members of each group are read.
    SELECT r.device_ids, r.complete_up_to, p_terms - (r.position - 1)::integer
    INTO device_ids, complete_up_to, other_terms
    FROM (
        SELECT t.position,
               coalesce(array_agg(DISTINCT m.device_id ORDER BY m.device_id)
                            FILTER (WHERE m.device_id IS NOT NULL), '{}') AS device_ids,
               min(m.device_id) FILTER (WHERE m.is_last) AS complete_up_to
        FROM (
            SELECT t.position, t.group_ids,
                   least(
                       greatest(p_max_examined / sum(jsonb_array_length(t.group_ids)) OVER (), 1),
                       CASE WHEN jsonb_array_length(p_terms) = 1 THEN p_limit END
                   )::integer AS group_limit
            FROM (
                SELECT t.position, t.term -> 'values' AS group_ids
                FROM jsonb_array_elements(p_terms) WITH ORDINALITY AS t (term, position)
                WHERE t.term ->> 'key' = 'group' AND t.term ->> 'op' = 'in'
                ORDER BY jsonb_array_length(t.term -> 'values')
                LIMIT 3
            ) t
        ) t
        CROSS JOIN LATERAL jsonb_array_elements_text(t.group_ids) AS g (group_id)
        LEFT JOIN LATERAL (
            -- A range of (group_id, device_id) and their order, so that no other index fits.
            SELECT m.device_id COLLATE "C" AS device_id,
                   row_number() OVER (
                       ORDER BY m.group_id COLLATE "C", m.device_id COLLATE "C"
                   ) = t.group_limit AS is_last
            FROM public.device_group_members m
            WHERE m.tenant_id = p_tenant_id
              AND (m.group_id COLLATE "C", m.device_id COLLATE "C") >= (g.group_id, p_first)
              AND (m.group_id COLLATE "C", m.device_id COLLATE "C") < (g.group_id, p_end)
            ORDER BY m.group_id COLLATE "C", m.device_id COLLATE "C"
            LIMIT t.group_limit
        ) m ON true
        GROUP BY t.position
    ) r
    ORDER BY r.complete_up_to IS NULL DESC, r.complete_up_to DESC, cardinality(r.device_ids)
    LIMIT 1;

    -- Beyond it, a group can have members that were not read.
    IF complete_up_to IS NOT NULL THEN
        device_ids := ARRAY(
            SELECT c.device_id FROM unnest(device_ids) WITH ORDINALITY AS c (device_id, n)
            WHERE c.device_id COLLATE "C" <= complete_up_to
            ORDER BY c.n
        );
    END IF;
    other_terms := coalesce(other_terms, p_terms);
END $$;
