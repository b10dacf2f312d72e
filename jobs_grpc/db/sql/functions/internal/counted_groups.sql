-- Returns the groups with the prefix p_prefix, in order, each with the number of its devices, at most 10,001. Ends
-- after p_limit groups, or after p_max_counted devices. If there are more groups, a last row has the next one without
-- a number. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.counted_groups(
    p_tenant_id text,
    p_prefix text,         -- '': all
    p_after text,          -- the last group of the page before; '': from the first
    p_limit integer,
    p_max_counted integer
) RETURNS TABLE (group_id text, device_count integer)
LANGUAGE plpgsql STABLE
-- Only an index that starts with (tenant_id, group_id) delivers the orders.
-- settings: page
AS $$
#variable_conflict use_column
DECLARE
    -- In byte order, no text is between a name and the name with chr(1) appended.
    v_from text := CASE WHEN p_after = '' THEN p_prefix ELSE p_after || chr(1) END;
    v_group_id text;
    v_groups integer := 0;
    v_counted integer := 0;
BEGIN
    LOOP
        -- One probe for each group, however many devices it has.
        SELECT m.group_id INTO v_group_id
        FROM public.device_group_members m
        WHERE m.tenant_id = p_tenant_id AND m.group_id COLLATE "C" >= v_from
        ORDER BY m.group_id COLLATE "C"
        LIMIT 1;
        EXIT WHEN NOT FOUND OR NOT starts_with(v_group_id, p_prefix);

        group_id := v_group_id;
        device_count := NULL;
        IF v_groups = p_limit OR v_counted >= p_max_counted THEN
            RETURN NEXT;
            EXIT;
        END IF;
        -- A range instead of "=", so that the order names the index.
        SELECT count(*)::integer INTO device_count
        FROM (
            SELECT
            FROM public.device_group_members m
            WHERE m.tenant_id = p_tenant_id
              AND m.group_id COLLATE "C" >= v_group_id AND m.group_id COLLATE "C" <= v_group_id
            ORDER BY m.group_id COLLATE "C"
            LIMIT 10001
        ) members;
        RETURN NEXT;
        v_groups := v_groups + 1;
        v_counted := v_counted + device_count;
        v_from := v_group_id || chr(1);
    END LOOP;
END $$;
