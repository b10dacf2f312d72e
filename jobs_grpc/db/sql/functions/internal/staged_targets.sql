-- Returns the text of the WITH clause of a query for the devices of a target and a rollout: its query `staged` has
-- (device_id, stage, rank), and time_zone if target_query has it, in the order of device_id. Without a rollout, it
-- has only (device_id, stage), and all devices are in stage 0. The parameters are those of target_query. The caller
-- has set the tenant, and needs the settings "merge join".
--
-- Sizes and ranks must come from the same devices, so they are one query. It sorts the devices twice: by their
-- hash, which gives the rank, and by device_id, because writing rows in another order than that of the primary
-- key takes twice as long. The sorts are most of the cost of a rollout, so their rows have only two columns.
CREATE OR REPLACE FUNCTION jobs.staged_targets(
    p_tenant_id text,
    p_job_id text,           -- the seed of the order, unless the rollout has one
    p_request jsonb,         -- as in jobs.jobs.request
    p_selector_terms jsonb,  -- see target_query
    p_max_targets integer
) RETURNS text
LANGUAGE plpgsql STABLE
-- settings: index
AS $$
DECLARE
    v_rollout jsonb := p_request -> 'rollout';
    -- For each stage, whether it has a group or a selector, and so claims its devices.
    v_claims boolean[] := ARRAY(
        SELECT s ?| '{group_id,selector}' FROM jsonb_array_elements(v_rollout -> 'stages') AS s
    );
    v_has_claims boolean := true = ANY (v_claims);
    v_seed bigint := hashtextextended(coalesce(nullif(v_rollout ->> 'seed', ''), p_job_id), 0);
    v_targets text := jobs.target_query(p_tenant_id, p_request, p_selector_terms, p_max_targets);
BEGIN
    IF v_rollout IS NULL THEN
        RETURN format('WITH staged AS (SELECT t.device_id, 0 AS stage FROM (%s) t)', v_targets);
    END IF;
    RETURN format(
        $query$
        WITH targets AS %1$s (%2$s), counts AS (
            SELECT t.claim, count(*) AS devices FROM targets t GROUP BY t.claim
        ), sizes AS (
            SELECT s.stage, s.size, NOT (%5$L::boolean[])[s.stage] AS is_unclaimed
            FROM unnest(jobs.stage_sizes(
                %6$L,
                (SELECT coalesce(sum(c.devices), 0)::bigint FROM counts c),
                ARRAY(
                    SELECT coalesce(c.devices, 0)
                    FROM generate_series(1, %7$s) AS s (stage)
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
        ), staged AS NOT MATERIALIZED (
            SELECT p.device_id, p.stages[p.n] AS stage, p.position + p.rank_offsets[p.n] AS rank%4$s
            FROM (
                SELECT p.device_id, p.position, s.stages, s.rank_offsets,
                       width_bucket(p.position, s.starts) AS n%4$s
                FROM stage_positions s
                CROSS JOIN (
                    SELECT p.device_id, p.position%4$s FROM positions p ORDER BY p.device_id
                ) p
                OFFSET 0
            ) p
        )
        $query$,
        -- To read device_state twice is cheaper than to keep the devices. Conditions are evaluated once.
        CASE WHEN v_has_claims OR p_request ?| '{target_selector,target_failed_in}'
             THEN 'MATERIALIZED' ELSE 'NOT MATERIALIZED' END,
        v_targets,
        -- hashtextextended returns the same on all machines with the same byte order. 101 is after
        -- all stages.
        format(
            CASE WHEN v_has_claims
                 THEN '(coalesce(t.claim, 101)::bigint << 56) + (hashtextextended(t.device_id, %s) >> 8)'
                 ELSE 'hashtextextended(t.device_id, %s)' END,
            v_seed
        ),
        CASE WHEN p_request ->> 'window_time_zone' = 'DEVICE' THEN ', time_zone' END,
        v_claims, v_rollout -> 'stages', cardinality(v_claims)
    );
END $$;
