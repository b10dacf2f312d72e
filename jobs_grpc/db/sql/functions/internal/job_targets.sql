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
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT target.device_id, claimed.stage
    FROM (
        SELECT d.device_id
        FROM public.device_state d
        WHERE p_target_device_id IS NOT NULL
          AND d.tenant_id = p_tenant_id AND d.device_id = p_target_device_id
        UNION ALL
        SELECT m.device_id
        FROM public.device_group_members m
        WHERE p_target_group_id IS NOT NULL
          AND m.tenant_id = p_tenant_id AND m.group_id = p_target_group_id
        UNION ALL
        SELECT d.device_id
        FROM public.device_state d
        WHERE p_target_all AND d.tenant_id = p_tenant_id
    ) target
    LEFT JOIN (
        SELECT m.device_id, min(g.stage) AS stage
        FROM unnest(p_group_ids) WITH ORDINALITY AS g (group_id, stage)
        JOIN public.device_group_members m
            ON m.tenant_id = p_tenant_id AND m.group_id = g.group_id
        GROUP BY m.device_id
    ) claimed ON claimed.device_id = target.device_id;
END $$;
