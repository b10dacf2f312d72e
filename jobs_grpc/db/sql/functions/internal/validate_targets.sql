-- depends on: check_stage_sizes, job_targets, stage_sizes
-- Returns the number of devices that a job would have and, with a rollout, the size of each stage.
-- The caller has set the tenant.
--
-- Raises STAGE_EMPTY and STAGES_TOO_SMALL.
CREATE OR REPLACE FUNCTION jobs.validate_targets(
    p_tenant_id text,
    p_target_device_id text,
    p_target_group_id text,
    p_target_all boolean,
    p_rollout jsonb,  -- as in jobs.jobs.request; NULL: none
    OUT devices integer,
    OUT stage_sizes integer[]
)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_stages jsonb := coalesce(p_rollout -> 'stages', '[]');
    v_group_ids text[] := ARRAY(SELECT s ->> 'group_id' FROM jsonb_array_elements(v_stages) AS s);
    v_claimed bigint[];
BEGIN
    WITH counts AS (
        SELECT t.group_stage, count(*) AS devices
        FROM jobs.job_targets(
            p_tenant_id, p_target_device_id, p_target_group_id, p_target_all, v_group_ids
        ) t
        GROUP BY t.group_stage
    )
    SELECT (SELECT coalesce(sum(c.devices), 0) FROM counts c),
           ARRAY(
               SELECT coalesce(c.devices, 0)
               FROM generate_series(1, cardinality(v_group_ids)) AS s (stage)
               LEFT JOIN counts c ON c.group_stage = s.stage
               ORDER BY s.stage
           )
    INTO devices, v_claimed;

    IF p_rollout IS NOT NULL THEN
        stage_sizes := jobs.stage_sizes(v_stages, devices, v_claimed);
        PERFORM jobs.check_stage_sizes(v_stages, stage_sizes, devices);
    END IF;
END $$;
