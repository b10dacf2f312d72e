-- Returns the text of the query for the devices of a target: (device_id, claim), where claim is the number
-- (from 1) of the first stage whose group or selector matches the device; NULL: none does. If each execution
-- has the time zone of its device, the third column is time_zone. Its parameters are the tenant_id ($1) and the
-- device_ids of the target ($2). It returns at most p_max_targets + 1 devices of a selector, of a list, or of
-- those that failed. The caller has set the tenant.
--
-- A text, because conditions that are part of the statement cost a third, and because it reads only the
-- tables that the target needs. All values in it are quoted. Needs the settings "merge join": many devices
-- are merged in the order of device_id, which needs no statistics. A few are looked up one by one.
CREATE OR REPLACE FUNCTION jobs.target_query(
    p_tenant_id text,
    p_request jsonb,         -- as in jobs.jobs.request
    p_selector_terms jsonb,  -- the terms of each selector in p_request, by its text
    p_max_targets integer
) RETURNS text
LANGUAGE plpgsql STABLE
-- settings: index
AS $$
DECLARE
    v_selector text := coalesce(
        p_request ->> 'target_selector', p_request -> 'target_failed_in' ->> 'selector'
    );
    v_terms jsonb := '[]';       -- of v_selector
    v_source text;               -- this and the next two: see target_candidates
    v_is_small boolean;
    v_is_device boolean;
    v_stages jsonb := coalesce(p_request -> 'rollout' -> 'stages', '[]');
    v_stage_groups text[] := ARRAY(SELECT s ->> 'group_id' FROM jsonb_array_elements(v_stages) AS s);
    v_stage_terms jsonb;         -- all terms of the stages' selectors
    v_stage_conditions text;     -- WHEN … THEN … for each stage with a selector
    v_groups text[];             -- that the stages name
    v_has_labels boolean;        -- a condition tests a label
    v_has_facts boolean;         -- a condition tests a fact
    -- Also for each table that is merged, which would otherwise be read from its start.
    v_range jsonb := p_request -> 'target_range';
    v_has_device_zones boolean := coalesce(p_request ->> 'window_time_zone' = 'DEVICE', false);
    v_device_id text;
    v_claim text;
    v_joins text := '';
BEGIN
    IF v_selector IS NOT NULL THEN
        v_terms := jobs.terms_of_selector(p_selector_terms, v_selector);
    END IF;

    SELECT c.source, c.is_small, c.is_device INTO v_source, v_is_small, v_is_device
    FROM jobs.target_candidates(p_tenant_id, p_request, v_terms) c;

    -- The tables of a platform can have another collation. A lookup must have that of the table, or it
    -- can't use the index: #>> returns a text without one. A merge needs the same on both sides.
    v_source := format(
        CASE WHEN v_is_small THEN 'SELECT to_jsonb(s.device_id) #>> ''{}'' AS device_id FROM (%s) s'
             ELSE 'SELECT s.device_id COLLATE "C" AS device_id FROM (%s) s' END,
        v_source
    );
    v_device_id := CASE WHEN v_is_small THEN 'c.device_id' ELSE 'c.device_id COLLATE "C"' END;

    -- What the conditions read.
    SELECT coalesce(jsonb_agg(t.term), '[]') INTO v_stage_terms
    FROM jsonb_array_elements(v_stages) AS s
    CROSS JOIN LATERAL jsonb_array_elements(
        jobs.terms_of_selector(p_selector_terms, s ->> 'selector')
    ) AS t (term)
    WHERE s ? 'selector';
    v_has_labels := EXISTS (
        SELECT FROM jsonb_array_elements(v_terms || v_stage_terms) AS t
        WHERE t ->> 'key' NOT IN ('device_id', 'group') AND NOT starts_with(t ->> 'key', 'fact.')
    );
    v_has_facts := EXISTS (
        SELECT FROM jsonb_array_elements(v_terms || v_stage_terms) AS t
        WHERE starts_with(t ->> 'key', 'fact.')
    );
    v_groups := ARRAY(
        SELECT g FROM unnest(v_stage_groups) AS g WHERE g IS NOT NULL
        UNION
        SELECT jsonb_array_elements_text(t -> 'values')
        FROM jsonb_array_elements(v_stage_terms) AS t
        WHERE t ->> 'key' = 'group'
    );

    IF NOT v_is_device THEN
        v_joins := CASE WHEN v_is_small THEN
            $query$
            CROSS JOIN LATERAL (
                SELECT FROM public.device_state d
                WHERE d.tenant_id = $1 AND d.device_id = c.device_id
                OFFSET 0
            ) d
            $query$
        ELSE
            ' JOIN public.device_state d ON d.tenant_id = $1 AND d.device_id COLLATE "C" = c.device_id'
        END;
    END IF;
    IF v_has_labels OR v_has_device_zones THEN
        v_joins := v_joins || CASE WHEN v_is_small THEN
            $query$
            LEFT JOIN LATERAL (
                SELECT l.labels, l.time_zone FROM jobs.devices l
                WHERE l.tenant_id = $1 AND l.device_id = c.device_id
                OFFSET 0
            ) l ON true
            $query$
        ELSE
            ' LEFT JOIN jobs.devices l ON l.tenant_id = $1 AND l.device_id = c.device_id'
            || jobs.range_condition('l.device_id', v_range)
        END;
    END IF;
    IF v_has_facts THEN
        v_joins := v_joins || CASE WHEN v_is_small THEN
            $query$
            LEFT JOIN LATERAL (
                SELECT f.facts FROM jobs.device_facts f
                WHERE f.tenant_id = $1 AND f.device_id = c.device_id
                OFFSET 0
            ) f ON true
            $query$
        ELSE
            ' LEFT JOIN jobs.device_facts f ON f.tenant_id = $1 AND f.device_id = c.device_id'
            || jobs.range_condition('f.device_id', v_range)
        END;
    END IF;
    IF v_groups <> '{}' THEN
        -- One row per device: a join of the members themselves could take quadratic time.
        v_joins := v_joins || format(
            CASE WHEN v_is_small THEN
                $query$
                LEFT JOIN LATERAL (
                    SELECT array_agg(m.group_id::text) AS group_ids,
                           min(array_position(%L::text[], m.group_id::text)) AS claim
                    FROM public.device_group_members m
                    WHERE m.tenant_id = $1 AND m.group_id = ANY (%L::text[])
                      AND m.device_id = c.device_id
                ) g ON true
                $query$
            ELSE
                $query$
                LEFT JOIN (
                    SELECT m.device_id COLLATE "C" AS device_id,
                           array_agg(m.group_id::text) AS group_ids,
                           min(array_position(%L::text[], m.group_id::text)) AS claim
                    FROM (
                        -- OFFSET 0: no order, so that the key is the cheapest index.
                        SELECT m.device_id, m.group_id FROM public.device_group_members m
                        WHERE m.tenant_id = $1 AND m.group_id = ANY (%L::text[])
                        OFFSET 0
                    ) m
                    GROUP BY m.device_id COLLATE "C"
                ) g ON g.device_id = c.device_id
                $query$
            END,
            v_stage_groups, v_groups
        );
    END IF;

    SELECT string_agg(
        format(
            'WHEN %s THEN %s',
            jobs.selector_condition(
                jobs.terms_of_selector(p_selector_terms, s.stage ->> 'selector'),
                v_device_id, 'l.labels', 'f.facts', true, 'g.group_ids'
            ),
            s.position
        ),
        ' ' ORDER BY s.position
    )
    INTO v_stage_conditions
    FROM jsonb_array_elements(v_stages) WITH ORDINALITY AS s (stage, position)
    WHERE s.stage ? 'selector';
    v_claim := CASE
        WHEN num_nonnulls(VARIADIC v_stage_groups) = 0
            THEN coalesce('CASE ' || v_stage_conditions || ' END', 'NULL::integer')
        WHEN v_stage_conditions IS NULL THEN 'g.claim'
        -- least ignores NULL.
        ELSE format('least(g.claim, CASE %s END)', v_stage_conditions)
    END;

    RETURN format(
        'SELECT c.device_id COLLATE "C" AS device_id, %s AS claim%s FROM (%s) c %s WHERE %s %s',
        v_claim,
        -- A name without a slash can be an abbreviation, which PostgreSQL reads as a fixed offset.
        CASE WHEN v_has_device_zones THEN
            ', CASE WHEN l.time_zone LIKE ''%/%'' THEN l.time_zone ELSE ''UTC'' END AS time_zone'
        END,
        v_source, v_joins,
        jobs.selector_condition(
            v_terms, v_device_id, 'l.labels', 'f.facts', v_is_small OR v_range IS NOT NULL
        ),
        -- For the other targets, the caller has already counted the devices. A merge returns them in this order, but
        -- its caller knows the order of a query with a LIMIT only if the query asks for it.
        CASE WHEN p_request ?| '{target_selector,target_device_ids,target_failed_in}'
             THEN format('ORDER BY device_id LIMIT %s', p_max_targets + 1) END
    );
END $$;
