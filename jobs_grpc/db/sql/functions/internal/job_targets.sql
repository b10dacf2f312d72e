-- Returns the devices that a job targets, each with the number of the first stage (from 1) whose
-- group it is a member of; NULL: none. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.job_targets(
    p_tenant_id text,
    p_target_device_id text,
    p_target_group_id text,
    p_target_all boolean,
    p_group_ids text[]  -- of each stage; NULL elements: stages without a group
) RETURNS TABLE (device_id text, group_stage bigint)
-- Not LANGUAGE sql: Citus can't run such a function on a distributed table.
LANGUAGE plpgsql STABLE
-- settings: index, no jit
AS $$
#variable_conflict use_column
BEGIN
    -- Grouped, not joined: without statistics, the planner could join in quadratic time.
    RETURN QUERY
    SELECT u.device_id, min(u.stage)
    FROM (
        SELECT d.device_id, NULL::bigint AS stage, true AS is_target
        FROM public.device_state d
        WHERE p_target_device_id IS NOT NULL
          AND d.tenant_id = p_tenant_id AND d.device_id = p_target_device_id
        UNION ALL
        SELECT m.device_id, NULL, true
        FROM public.device_group_members m
        WHERE p_target_group_id IS NOT NULL
          AND m.tenant_id = p_tenant_id AND m.group_id = p_target_group_id
        UNION ALL
        SELECT d.device_id, NULL, true
        FROM public.device_state d
        WHERE p_target_all AND d.tenant_id = p_tenant_id
        UNION ALL
        SELECT m.device_id, g.stage, false
        FROM unnest(p_group_ids) WITH ORDINALITY AS g (group_id, stage)
        JOIN public.device_group_members m
            ON m.tenant_id = p_tenant_id AND m.group_id = g.group_id
    ) u
    GROUP BY u.device_id
    HAVING bool_or(u.is_target);
END $$;
