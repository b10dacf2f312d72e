-- depends on: job_targets, stage_sizes
-- Creates the executions of a job with a rollout, each with its stage and rank, and the stages.
-- Returns the number of executions. The caller has set the tenant.
--
-- Raises STAGES_TOO_SMALL.
CREATE OR REPLACE FUNCTION jobs.create_staged_executions(
    p_tenant_id text,
    p_job_id text,
    p_target_device_id text,
    p_target_group_id text,
    p_target_all boolean,
    p_rollout jsonb,  -- as in jobs.rollout_request
    p_now timestamptz
) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    v_stages jsonb := p_rollout -> 'stages';
    v_group_ids text[] := ARRAY(SELECT s ->> 'group_id' FROM jsonb_array_elements(v_stages) AS s);
    v_seed text := coalesce(nullif(p_rollout ->> 'seed', ''), p_job_id) || ':';
    v_devices integer;
    v_sizes integer[];
BEGIN
    -- One statement, so that sizes and ranks come from the same devices. The hash is sha256, because
    -- PostgreSQL's own hash functions depend on the byte order of the machine. The rows are written in
    -- the order of the primary key, because writing them in the order of rank takes twice as long.
    WITH targets AS MATERIALIZED (
        SELECT t.device_id, t.group_stage,
               row_number() OVER (
                   PARTITION BY t.group_stage
                   ORDER BY sha256(convert_to(v_seed || t.device_id, 'UTF8'))
               ) AS position
        FROM jobs.job_targets(
            p_tenant_id, p_target_device_id, p_target_group_id, p_target_all, v_group_ids
        ) t
    ), sizes AS (
        SELECT s.stage, s.size,
               CASE WHEN v_group_ids[s.stage] IS NULL THEN s.size ELSE 0 END AS unclaimed
        FROM unnest(jobs.stage_sizes(
            v_stages,
            (SELECT count(*) FROM targets),
            ARRAY(
                SELECT count(t.device_id)
                FROM generate_series(1, cardinality(v_group_ids)) AS s (stage)
                LEFT JOIN targets t ON t.group_stage = s.stage
                GROUP BY s.stage
                ORDER BY s.stage
            )
        )) WITH ORDINALITY AS s (size, stage)
    ), layout AS MATERIALIZED (
        SELECT
            -- The position of the first unclaimed device in each stage.
            array_agg(s.unclaimed_before + 1 ORDER BY s.stage) AS starts,
            sum(s.unclaimed) AS unclaimed,
            -- What to add to a position to get the rank.
            array_agg(
                s.before - CASE WHEN v_group_ids[s.stage] IS NULL THEN s.unclaimed_before ELSE 0 END
                ORDER BY s.stage
            ) AS offsets
        FROM (
            SELECT s.stage, s.unclaimed,
                   sum(s.size) OVER (ORDER BY s.stage) - s.size AS before,
                   sum(s.unclaimed) OVER (ORDER BY s.stage) - s.unclaimed AS unclaimed_before
            FROM sizes s
        ) s
    )
    INSERT INTO jobs.job_executions
        (tenant_id, job_id, device_id, queued_at, last_updated_at, stage, rank)
    SELECT p_tenant_id, p_job_id, p.device_id, p_now, p_now, p.stage - 1,
           p.position + p.offsets[p.stage]
    FROM (
        SELECT t.device_id, t.position, l.offsets,
               coalesce(
                   t.group_stage,
                   CASE WHEN t.position <= l.unclaimed THEN width_bucket(t.position, l.starts) END
               ) AS stage
        FROM targets t
        CROSS JOIN layout l
    ) p
    ORDER BY p.device_id;
    GET DIAGNOSTICS v_devices = ROW_COUNT;
    IF v_devices = 0 THEN
        RETURN 0;
    END IF;

    SELECT array_agg(coalesce(c.devices, 0) ORDER BY s.stage) INTO v_sizes
    FROM generate_series(0, cardinality(v_group_ids) - 1) AS s (stage)
    LEFT JOIN (
        SELECT e.stage, count(*)::integer AS devices
        FROM jobs.job_executions e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
        GROUP BY e.stage
    ) c ON c.stage = s.stage;
    PERFORM jobs.check_stage_sizes(v_sizes, v_devices);

    INSERT INTO jobs.job_stages
        (tenant_id, job_id, stage, display_name, device_count, percent, group_id, first_rank,
         last_rank, releases_per_minute, min_succeeded_percent, bake_seconds,
         advance_after_seconds, require_approval, allow_self_approval, opened_at, active_since,
         queued)
    SELECT p_tenant_id, p_job_id, s.stage - 1, s.display_name, s.device_count, s.percent,
           s.group_id, s.last_rank - s.size + 1, s.last_rank, s.releases_per_minute,
           s.min_succeeded_percent, coalesce(s.bake_seconds, 0), s.advance_after_seconds,
           coalesce(s.require_approval, false), coalesce(s.allow_self_approval, false),
           CASE WHEN s.stage = 1 THEN p_now END, CASE WHEN s.stage = 1 THEN p_now END, s.size
    FROM (
        SELECT s.*, v_sizes[s.stage] AS size,
               sum(v_sizes[s.stage]) OVER (ORDER BY s.stage) AS last_rank
        FROM ROWS FROM (jsonb_to_recordset(v_stages) AS (
            display_name text, device_count integer, percent integer, group_id text,
            releases_per_minute integer, min_succeeded_percent integer, bake_seconds integer,
            advance_after_seconds integer, require_approval boolean, allow_self_approval boolean
        )) WITH ORDINALITY AS s (
            display_name, device_count, percent, group_id, releases_per_minute,
            min_succeeded_percent, bake_seconds, advance_after_seconds, require_approval,
            allow_self_approval, stage
        )
    ) s;

    UPDATE jobs.jobs j
    SET open_stage = 0, release_base = 0, release_end = v_sizes[1], release_since = p_now,
        release_rate = (v_stages -> 0 ->> 'releases_per_minute')::integer
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    RETURN v_devices;
END $$;
