-- Creates the executions of a job with a rollout, each with its stage and rank, and the stages.
-- Returns the number of executions, and the size of each stage if there are any. The caller has set the
-- tenant.
--
-- Raises STAGE_EMPTY and STAGES_TOO_SMALL.
CREATE OR REPLACE FUNCTION jobs.create_staged_executions(
    p_tenant_id text, p_job_id text,
    p_request jsonb,         -- as in jobs.jobs.request
    p_selector_terms jsonb,  -- see target_query
    p_target_device_ids text[],
    p_max_targets integer,
    p_now timestamptz,
    p_start_at timestamptz,  -- of the first stage: p_now or later
    OUT devices integer,
    OUT stage_sizes integer[]
)
LANGUAGE plpgsql
-- settings: merge join, no parallel query, no jit
AS $$
DECLARE
    v_rollout jsonb := p_request -> 'rollout';
    v_stages jsonb := v_rollout -> 'stages';
    -- For each stage, whether it has a group or a selector, and so claims its devices.
    v_claims boolean[] := ARRAY(
        SELECT s ?| '{group_id,selector}' FROM jsonb_array_elements(v_stages) AS s
    );
    v_has_claims boolean := true = ANY (v_claims);
    v_has_device_zones boolean := coalesce(p_request ->> 'window_time_zone' = 'DEVICE', false);
    v_seed bigint := hashtextextended(coalesce(nullif(v_rollout ->> 'seed', ''), p_job_id), 0);
    v_claimed bigint[];  -- for each stage that claims devices: their number; 0 for the others
    v_first_size integer;
BEGIN
    -- One statement, so that sizes and ranks come from the same devices. It sorts the devices twice:
    -- by their hash, which gives the rank, and by device_id, because writing rows in another order
    -- than that of the primary key takes twice as long. The sorts are most of the cost of a rollout,
    -- so their rows have only two columns.
    EXECUTE format(
        $query$
        WITH targets AS %1$s (%2$s), counts AS (
            SELECT t.claim, count(*) AS devices FROM targets t GROUP BY t.claim
        ), sizes AS (
            SELECT s.stage, s.size, NOT $7[s.stage] AS is_unclaimed
            FROM unnest(jobs.stage_sizes(
                $5,
                (SELECT coalesce(sum(c.devices), 0)::bigint FROM counts c),
                ARRAY(
                    SELECT coalesce(c.devices, 0)
                    FROM generate_series(1, cardinality($7)) AS s (stage)
                    LEFT JOIN counts c ON c.claim = s.stage
                    ORDER BY s.stage
                )
            )) WITH ORDINALITY AS s (size, stage)
        ), stage_positions AS MATERIALIZED (
            -- By position: the stages that claim devices, the others, and the devices without a stage.
            SELECT array_agg(s.positions_before + 1 ORDER BY s.is_unclaimed, s.stage)
                       || sum(s.size) + 1 AS starts,
                   array_agg(s.stage - 1 ORDER BY s.is_unclaimed, s.stage) AS stages,
                   array_agg(s.ranks_before - s.positions_before ORDER BY s.is_unclaimed, s.stage)
                       AS rank_offsets
            FROM (
                SELECT s.stage, s.size, s.is_unclaimed,
                       sum(s.size) OVER (ORDER BY s.stage) - s.size AS ranks_before,
                       sum(s.size) OVER (ORDER BY s.is_unclaimed, s.stage) - s.size
                           AS positions_before
                FROM sizes s
            ) s
        ), positions AS NOT MATERIALIZED (
            SELECT d.device_id, row_number() OVER (ORDER BY d.key, d.device_id) AS position%4$s
            FROM (SELECT t.device_id, %3$s AS key%4$s FROM targets t) d
        )
        INSERT INTO jobs.job_executions
            (tenant_id, job_id, device_id, queued_at, last_updated_at, stage, rank, queue_order,
             time_zone)
        SELECT $1, $3, p.device_id, $4, $4, p.stages[p.n], p.position + p.rank_offsets[p.n], $8, %5$s
        FROM (
            SELECT p.device_id, p.position, s.stages, s.rank_offsets,
                   width_bucket(p.position, s.starts) AS n%4$s
            FROM stage_positions s
            CROSS JOIN (SELECT p.device_id, p.position%4$s FROM positions p ORDER BY p.device_id) p
            OFFSET 0
        ) p
        $query$,
        -- To read device_state twice is cheaper than to keep the devices. Conditions are evaluated once.
        CASE WHEN v_has_claims OR p_request ?| '{target_selector,target_failed_in}'
             THEN 'MATERIALIZED' ELSE 'NOT MATERIALIZED' END,
        jobs.target_query(p_tenant_id, p_request, p_selector_terms, p_max_targets),
        -- hashtextextended returns the same on all machines with the same byte order. 101 is after
        -- all stages.
        CASE WHEN v_has_claims
             THEN '(coalesce(t.claim, 101)::bigint << 56) + (hashtextextended(t.device_id, $6) >> 8)'
             ELSE 'hashtextextended(t.device_id, $6)' END,
        CASE WHEN v_has_device_zones THEN ', time_zone' END,
        CASE WHEN v_has_device_zones THEN 'p.time_zone' ELSE 'NULL' END
    ) USING p_tenant_id, p_target_device_ids, p_job_id, p_now, v_stages, v_seed, v_claims,
            jobs.queue_order(p_request ->> 'priority');
    GET DIAGNOSTICS devices = ROW_COUNT;
    IF devices = 0 THEN
        RETURN;
    END IF;

    SELECT array_agg(coalesce(c.devices, 0) ORDER BY s.stage) INTO v_claimed
    FROM unnest(v_claims) WITH ORDINALITY AS s (claims, stage)
    LEFT JOIN (
        SELECT e.stage, count(*) AS devices
        FROM jobs.job_executions e
        WHERE v_has_claims AND e.tenant_id = p_tenant_id AND e.job_id = p_job_id
        GROUP BY e.stage
    ) c ON c.stage = s.stage - 1 AND s.claims;
    stage_sizes := jobs.stage_sizes(v_stages, devices, v_claimed);
    PERFORM jobs.check_stage_sizes(v_stages, stage_sizes, devices);
    v_first_size := stage_sizes[1];

    INSERT INTO jobs.job_stages
        (tenant_id, job_id, stage, display_name, device_count, percent, group_id, selector,
         first_rank, last_rank, releases_per_minute, min_succeeded_percent, bake_seconds,
         advance_after_seconds, require_approval, allow_self_approval, allow_empty, opened_at,
         active_since, queued)
    SELECT p_tenant_id, p_job_id, s.number - 1, s.display_name, s.device_count, s.percent,
           s.group_id, s.selector, s.end_rank - s.size + 1, s.end_rank, s.releases_per_minute,
           s.min_succeeded_percent, coalesce(s.bake_seconds, 0), s.advance_after_seconds,
           coalesce(s.require_approval, false), coalesce(s.allow_self_approval, false),
           coalesce(s.allow_empty, false),
           CASE WHEN s.number = 1 THEN p_start_at END, CASE WHEN s.number = 1 THEN p_start_at END,
           s.size
    FROM (
        SELECT s.*, e.number, stage_sizes[e.number] AS size,
               sum(stage_sizes[e.number]) OVER (ORDER BY e.number) AS end_rank
        FROM jsonb_array_elements(v_stages) WITH ORDINALITY AS e (stage, number)
        CROSS JOIN LATERAL jsonb_populate_record(NULL::jobs.job_stages, e.stage) s
    ) s;

    UPDATE jobs.jobs j
    SET open_stage = 0, release_base = 0, release_end = v_first_size, release_since = p_start_at,
        release_rate = (v_stages -> 0 ->> 'releases_per_minute')::integer
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
END $$;
