-- Returns the condition of a selector as SQL, for a statement whose parameter $1 is the tenant. It is
-- NULL or false for a device that the selector does not match.
CREATE OR REPLACE FUNCTION jobs.selector_condition(
    p_terms jsonb,     -- as Selector.terms_json of services/selectors.py
    p_device_id text,  -- the SQL of the device_id, in the collation of the column
    p_labels text,     -- the SQL of the labels, which is NULL for a device that has none
    -- The SQL of the facts, which is NULL for a device that has none. A term whose key is fact.KEY tests a fact.
    p_facts text,
    -- Look memberships up for each device. false: the planner may also join them, which is faster for
    -- all devices of a tenant, but reads all members of the groups.
    look_up_groups boolean,
    -- The SQL of an array with those of the device's groups that terms names. NULL: read memberships.
    group_ids text DEFAULT NULL
) RETURNS text
LANGUAGE sql STABLE
RETURN (
    SELECT coalesce(string_agg(
        CASE
            WHEN t.key = 'group' AND group_ids IS NOT NULL THEN format(
                CASE WHEN t.op = 'in' THEN '%s && ARRAY[%s]'
                     ELSE 'coalesce(NOT %s && ARRAY[%s], true)' END,
                group_ids, v.list
            )
            WHEN t.key = 'group' THEN format(
                '%s (SELECT FROM public.device_group_members m WHERE m.tenant_id = $1'
                ' AND m.group_id IN (%s) AND m.device_id = %s%s)',
                CASE WHEN t.op = 'in' THEN 'EXISTS' ELSE 'NOT EXISTS' END, v.list, p_device_id,
                -- The planner can't join a sub-select with an OFFSET.
                CASE WHEN look_up_groups THEN ' OFFSET 0' END
            )
            WHEN t.key = 'device_id' THEN format(
                '%s %s (%s)', p_device_id, CASE WHEN t.op = 'in' THEN 'IN' ELSE 'NOT IN' END, v.list
            )
            WHEN t.op = 'in' THEN format('%s IN (%s)', v.value, v.list)
            WHEN t.op = 'not_in' THEN format('coalesce(%s NOT IN (%s), true)', v.value, v.list)
            WHEN t.op = 'exists' THEN format('%s IS NOT NULL', v.value)
            ELSE format('%s IS NULL', v.value)
        END,
        ' AND ' ORDER BY t.position
    ), 'true')
    FROM (
        SELECT term ->> 'key' AS key, term ->> 'op' AS op, term -> 'values' AS values, position
        FROM jsonb_array_elements(p_terms) WITH ORDINALITY AS e (term, position)
    ) t
    CROSS JOIN LATERAL (
        SELECT string_agg(quote_literal(value), ', ') AS list,
               CASE WHEN starts_with(t.key, 'fact.') THEN format('%s ->> %L', p_facts, substr(t.key, 6))
                    ELSE format('%s ->> %L', p_labels, t.key) END AS value
        FROM jsonb_array_elements_text(t.values) AS value
    ) v
);
