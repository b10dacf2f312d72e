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
    v_stages jsonb := p_request -> 'rollout' -> 'stages';
    -- For each stage, whether it has a group or a selector, and so claims its devices.
    v_claims boolean[] := ARRAY(
        SELECT s ?| '{group_id,selector}' FROM jsonb_array_elements(v_stages) AS s
    );
    v_has_claims boolean := true = ANY (v_claims);
    v_claimed bigint[];  -- for each stage that claims devices: their number; 0 for the others
    v_first_size integer;
BEGIN
    EXECUTE jobs.staged_targets(
        p_tenant_id, p_job_id, p_request, p_selector_terms, p_max_targets
    ) || format(
        $query$
        INSERT INTO jobs.job_executions
            (tenant_id, job_id, device_id, queued_at, last_updated_at, stage, rank, queue_order,
             time_zone)
        SELECT $1, $3, s.device_id, $4, $4, s.stage, s.rank, $5, %s
        FROM staged s
        $query$,
        CASE WHEN p_request ->> 'window_time_zone' = 'DEVICE' THEN 's.time_zone' ELSE 'NULL' END
    ) USING p_tenant_id, p_target_device_ids, p_job_id, p_now,
            jobs.queue_order(p_request ->> 'priority');
    GET DIAGNOSTICS devices = ROW_COUNT;
    IF devices = 0 AND NOT p_request ? 'continuous' THEN
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
    PERFORM jobs.check_stage_sizes(v_stages, stage_sizes, devices, p_request ? 'continuous');
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
