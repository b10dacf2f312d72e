-- Returns a page of the devices that match a selector and have the prefix p_prefix, in the order of
-- device_id. If other devices may follow, the last row is no device: it has no labels, and the next page
-- starts after its device_id.
--
-- Examines at most p_max_examined devices, so a page may be short or empty although others follow. A
-- page with a device also ends after 8 MiB of labels, facts and groups, and before it has more than 20,000 devices
-- and groups.
CREATE OR REPLACE FUNCTION jobs.list_devices(
    p_tenant_id text,
    p_terms jsonb,  -- as Selector.terms_json of services/selectors.py
    p_prefix text,  -- '': all
    p_after text,   -- where the page starts; '': from the first
    p_limit integer,
    p_max_examined integer DEFAULT 5000
) RETURNS TABLE (
    device_id text,
    labels jsonb,
    time_zone text,
    last_seen_at timestamptz,
    group_ids text[],  -- the first 1,000, in order
    facts jsonb,
    facts_updated_at timestamptz
)
LANGUAGE plpgsql STABLE
-- The tables of a platform can have another collation, so COLLATE "C" names the order.
-- settings: tenant, page, merge join
AS $$
#variable_conflict use_column
DECLARE
    -- In byte order, no text is between a name and the name with chr(1) appended, and a device_id, which
    -- has at most 256 characters, is before its prefix with 257 times the greatest character appended.
    v_first text := greatest(p_prefix COLLATE "C", (p_after || chr(1)) COLLATE "C");
    v_end text := p_prefix || repeat(chr(1114111), 257);
    -- Looked up for each device, and only if a term tests a fact.
    v_facts CONSTANT text := '(SELECT f.facts FROM jobs.device_facts f'
        ' WHERE f.tenant_id = $1 AND f.device_id = c.device_id COLLATE "C")';
    v_candidates record;
    v_ids text[];  -- those on the page, and one more if others follow
    v_last text;   -- the last device that was examined, if others may follow
    v_max_bytes CONSTANT bigint := 8388608;
    v_max_elements CONSTANT integer := 20000;  -- see response_pages.py
    v_slice CONSTANT integer := 50;  -- devices that are read at once, so that few are read in vain
    v_bytes bigint := 0;
    v_elements integer := 0;
    v_previous text;
BEGIN
    SELECT * INTO v_candidates
    FROM jobs.selector_candidates(
        p_tenant_id, p_terms, v_first, v_end, p_limit + 1, p_max_examined
    );
    IF v_candidates.device_ids IS NOT NULL THEN
        EXECUTE format(
            'SELECT ARRAY(
                SELECT c.device_id
                FROM unnest($2) WITH ORDINALITY AS c (device_id, n)
                CROSS JOIN LATERAL (
                    SELECT FROM public.device_state d
                    WHERE d.tenant_id = $1 AND d.device_id = c.device_id
                    OFFSET 0
                ) d
                LEFT JOIN LATERAL (
                    SELECT l.labels FROM jobs.devices l
                    WHERE l.tenant_id = $1 AND l.device_id = c.device_id
                    OFFSET 0
                ) l ON true
                WHERE %s
                ORDER BY c.n
                LIMIT $3
            )',
            jobs.selector_condition(
                v_candidates.other_terms, 'c.device_id', 'l.labels', v_facts, look_up_groups => true
            )
        )
        INTO v_ids
        USING p_tenant_id, v_candidates.device_ids, p_limit + 1;
        v_last := v_candidates.complete_up_to;
    ELSIF p_terms = '[]' THEN
        v_ids := ARRAY(
            SELECT d.device_id
            FROM public.device_state d
            WHERE d.tenant_id = p_tenant_id
              AND d.device_id COLLATE "C" >= v_first AND d.device_id COLLATE "C" < v_end
            ORDER BY d.device_id COLLATE "C"
            LIMIT p_limit + 1
        );
    ELSE
        -- A merge join reads the two tables in the order of the page, until the page is full.
        EXECUTE format(
            'SELECT array_agg(e.device_id ORDER BY e.n) FILTER (WHERE e.is_match),
                    min(e.device_id) FILTER (WHERE e.n = $5)
            FROM (
                SELECT c.device_id, c.n, (%1$s) IS TRUE AS is_match
                FROM (
                    SELECT d.device_id, d.device_id COLLATE "C" AS sort_key, l.labels,
                           row_number() OVER (ORDER BY d.device_id COLLATE "C") AS n
                    FROM public.device_state d
                    LEFT JOIN jobs.devices l
                        ON l.tenant_id = $1 AND l.device_id = d.device_id COLLATE "C"
                        AND l.device_id >= $2 AND l.device_id < $3
                    WHERE d.tenant_id = $1
                      AND d.device_id COLLATE "C" >= $2 AND d.device_id COLLATE "C" < $3
                    ORDER BY d.device_id COLLATE "C"
                    LIMIT $5
                ) c
                WHERE %1$s OR c.n = $5
                ORDER BY c.sort_key
                LIMIT $4
            ) e',
            jobs.selector_condition(p_terms, 'c.device_id', 'c.labels', v_facts, look_up_groups => true)
        )
        INTO v_ids, v_last
        USING p_tenant_id, v_first, v_end, p_limit + 1, p_max_examined;
    END IF;
    IF cardinality(v_ids) > p_limit THEN
        v_ids := v_ids[:p_limit];
        v_last := v_ids[p_limit];
    END IF;

    <<page>>
    FOR v_start IN 1 .. coalesce(cardinality(v_ids), 0) BY v_slice LOOP
        FOR device_id, labels, time_zone, last_seen_at, group_ids, facts, facts_updated_at IN
            SELECT i.device_id, coalesce(l.labels, '{}'), l.time_zone, l.last_seen_at, g.group_ids,
                   coalesce(f.facts, '{}'), f.facts_updated_at
            FROM unnest(v_ids[v_start : v_start + v_slice - 1]) WITH ORDINALITY AS i (device_id, n)
            LEFT JOIN LATERAL (
                SELECT l.labels, l.time_zone, l.last_seen_at
                FROM jobs.devices l
                WHERE l.tenant_id = p_tenant_id AND l.device_id = i.device_id COLLATE "C"
                OFFSET 0
            ) l ON true
            LEFT JOIN LATERAL (
                SELECT f.facts, f.facts_updated_at
                FROM jobs.device_facts f
                WHERE f.tenant_id = p_tenant_id AND f.device_id = i.device_id COLLATE "C"
                OFFSET 0
            ) f ON true
            CROSS JOIN LATERAL (
                SELECT (array_agg(m.group_id ORDER BY m.group_id))[:1000] AS group_ids
                FROM (
                    -- A range, not an equality: only the index on the device_id has its order.
                    SELECT m.group_id COLLATE "C" AS group_id
                    FROM public.device_group_members m
                    WHERE m.tenant_id = p_tenant_id AND m.device_id COLLATE "C" >= i.device_id
                      AND m.device_id COLLATE "C" <= i.device_id
                    ORDER BY m.device_id COLLATE "C"
                    OFFSET 0
                ) m
            ) g
            ORDER BY i.n
        LOOP
            v_elements := v_elements + 1 + coalesce(cardinality(group_ids), 0);
            IF v_previous IS NOT NULL
               AND (v_bytes >= v_max_bytes OR v_elements > v_max_elements) THEN
                v_last := v_previous;
                EXIT page;
            END IF;
            RETURN NEXT;
            v_bytes := v_bytes + octet_length(labels::text) + octet_length(facts::text)
                + coalesce(octet_length(group_ids::text), 0);
            v_previous := device_id;
        END LOOP;
    END LOOP;

    IF v_last IS NOT NULL THEN
        RETURN QUERY SELECT v_last, NULL::jsonb, NULL::text, NULL::timestamptz, NULL::text[],
                            NULL::jsonb, NULL::timestamptz;
    END IF;
END $$;
