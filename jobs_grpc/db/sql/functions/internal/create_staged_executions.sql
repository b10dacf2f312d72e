-- depends on: check_stage_sizes, job_targets, stage_sizes
-- Creates the executions of a job with a rollout, each with its stage and rank, and the stages.
-- Returns the number of executions, and the size of each stage if there are any. The caller has set the
-- tenant.
--
-- Raises STAGE_EMPTY and STAGES_TOO_SMALL.
CREATE OR REPLACE FUNCTION jobs.create_staged_executions(
    p_tenant_id text,
    p_job_id text,
    p_target_device_id text,
    p_target_group_id text,
    p_target_all boolean,
    p_rollout jsonb,  -- as in jobs.jobs.request
    p_now timestamptz,
    OUT devices integer,
    OUT stage_sizes integer[]
)
LANGUAGE plpgsql
-- settings: no jit
AS $$
DECLARE
    v_stages jsonb := p_rollout -> 'stages';
    v_group_ids text[] := ARRAY(SELECT s ->> 'group_id' FROM jsonb_array_elements(v_stages) AS s);
    v_has_groups boolean := num_nonnulls(VARIADIC v_group_ids) > 0;
    v_seed bigint := hashtextextended(coalesce(nullif(p_rollout ->> 'seed', ''), p_job_id), 0);
    v_claimed bigint[];  -- for each stage of a group: its devices; 0 for the others
    v_first_size integer;
BEGIN
    -- One statement, so that sizes and ranks come from the same devices. It sorts the devices twice:
    -- by their hash, which gives the rank, and by device_id, because writing rows in another order
    -- than that of the primary key takes twice as long. The sorts are most of the cost of a rollout,
    -- so their rows have only two columns.
    WITH grouped AS MATERIALIZED (
        SELECT t.device_id, t.group_stage
        FROM jobs.job_targets(
            p_tenant_id, p_target_device_id, p_target_group_id, p_target_all, v_group_ids
        ) t
        WHERE v_has_groups
    ), ungrouped AS NOT MATERIALIZED (
        -- The same devices without groups. They need no lookup of their stage.
        SELECT d.device_id
        FROM public.device_state d
        WHERE NOT v_has_groups AND p_target_device_id IS NOT NULL
          AND d.tenant_id = p_tenant_id AND d.device_id = p_target_device_id
        UNION ALL
        SELECT m.device_id
        FROM public.device_group_members m
        WHERE NOT v_has_groups AND p_target_group_id IS NOT NULL
          AND m.tenant_id = p_tenant_id AND m.group_id = p_target_group_id
        UNION ALL
        SELECT d.device_id
        FROM public.device_state d
        WHERE NOT v_has_groups AND p_target_all AND d.tenant_id = p_tenant_id
    ), counts AS (
        SELECT g.group_stage, count(*) AS devices FROM grouped g GROUP BY g.group_stage
        UNION ALL
        SELECT NULL, count(*) FROM ungrouped
    ), sizes AS (
        SELECT s.stage, s.size, v_group_ids[s.stage] IS NULL AS is_unclaimed
        FROM unnest(jobs.stage_sizes(
            v_stages,
            (SELECT sum(c.devices)::bigint FROM counts c),
            ARRAY(
                SELECT coalesce(c.devices, 0)
                FROM generate_series(1, cardinality(v_group_ids)) AS s (stage)
                LEFT JOIN counts c ON c.group_stage = s.stage
                ORDER BY s.stage
            )
        )) WITH ORDINALITY AS s (size, stage)
    ), layout AS MATERIALIZED (
        -- By position: the stages of groups, the others, and the devices without a stage.
        SELECT array_agg(s.positions_before + 1 ORDER BY s.is_unclaimed, s.stage)
                   || sum(s.size) + 1 AS starts,
               array_agg(s.stage - 1 ORDER BY s.is_unclaimed, s.stage) AS stages,
               array_agg(s.ranks_before - s.positions_before ORDER BY s.is_unclaimed, s.stage)
                   AS rank_offsets
        FROM (
            SELECT s.stage, s.size, s.is_unclaimed,
                   sum(s.size) OVER (ORDER BY s.stage) - s.size AS ranks_before,
                   sum(s.size) OVER (ORDER BY s.is_unclaimed, s.stage) - s.size AS positions_before
            FROM sizes s
        ) s
    ), positions AS NOT MATERIALIZED (
        -- hashtextextended returns the same on all machines with the same byte order. 101 is after
        -- all stages.
        SELECT d.device_id, row_number() OVER (ORDER BY d.key, d.device_id) AS position
        FROM (
            SELECT g.device_id,
                   (coalesce(g.group_stage, 101) << 56)
                   + (hashtextextended(g.device_id COLLATE "C", v_seed) >> 8) AS key
            FROM grouped g
            UNION ALL
            SELECT u.device_id, hashtextextended(u.device_id COLLATE "C", v_seed) FROM ungrouped u
        ) d
    )
    INSERT INTO jobs.job_executions
        (tenant_id, job_id, device_id, queued_at, last_updated_at, stage, rank)
    SELECT p_tenant_id, p_job_id, p.device_id, p_now, p_now, p.stages[p.n],
           p.position + p.rank_offsets[p.n]
    FROM (
        SELECT p.device_id, p.position, l.stages, l.rank_offsets,
               width_bucket(p.position, l.starts) AS n
        FROM layout l
        CROSS JOIN (SELECT p.device_id, p.position FROM positions p ORDER BY p.device_id) p
        OFFSET 0
    ) p;
    GET DIAGNOSTICS devices = ROW_COUNT;
    IF devices = 0 THEN
        RETURN;
    END IF;

    SELECT array_agg(coalesce(c.devices, 0) ORDER BY s.stage) INTO v_claimed
    FROM unnest(v_group_ids) WITH ORDINALITY AS s (group_id, stage)
    LEFT JOIN (
        SELECT e.stage, count(*) AS devices
        FROM jobs.job_executions e
        WHERE v_has_groups AND e.tenant_id = p_tenant_id AND e.job_id = p_job_id
        GROUP BY e.stage
    ) c ON c.stage = s.stage - 1 AND s.group_id IS NOT NULL;
    stage_sizes := jobs.stage_sizes(v_stages, devices, v_claimed);
    PERFORM jobs.check_stage_sizes(v_stages, stage_sizes, devices);
    v_first_size := stage_sizes[1];

    INSERT INTO jobs.job_stages
        (tenant_id, job_id, stage, display_name, device_count, percent, group_id, first_rank,
         last_rank, releases_per_minute, min_succeeded_percent, bake_seconds,
         advance_after_seconds, require_approval, allow_self_approval, allow_empty, opened_at,
         active_since, queued)
    SELECT p_tenant_id, p_job_id, s.stage - 1, s.display_name, s.device_count, s.percent,
           s.group_id, s.last_rank - s.size + 1, s.last_rank, s.releases_per_minute,
           s.min_succeeded_percent, coalesce(s.bake_seconds, 0), s.advance_after_seconds,
           coalesce(s.require_approval, false), coalesce(s.allow_self_approval, false),
           coalesce(s.allow_empty, false),
           CASE WHEN s.stage = 1 THEN p_now END, CASE WHEN s.stage = 1 THEN p_now END, s.size
    FROM (
        SELECT s.*, stage_sizes[s.stage] AS size,
               sum(stage_sizes[s.stage]) OVER (ORDER BY s.stage) AS last_rank
        FROM ROWS FROM (jsonb_to_recordset(v_stages) AS (
            display_name text, device_count integer, percent integer, group_id text,
            releases_per_minute integer, min_succeeded_percent integer, bake_seconds integer,
            advance_after_seconds integer, require_approval boolean, allow_self_approval boolean,
            allow_empty boolean
        )) WITH ORDINALITY AS s (
            display_name, device_count, percent, group_id, releases_per_minute,
            min_succeeded_percent, bake_seconds, advance_after_seconds, require_approval,
            allow_self_approval, allow_empty, stage
        )
    ) s;

    UPDATE jobs.jobs j
    SET open_stage = 0, release_base = 0, release_end = v_first_size, release_since = p_now,
        release_rate = (v_stages -> 0 ->> 'releases_per_minute')::integer
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
END $$;
