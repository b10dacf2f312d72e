-- Returns what create_job would create: the number of devices, the size of each stage of the rollout, the
-- first 20 devices, up to 20 other jobs with pending executions on these, and the digest. The caller has
-- set the tenant.
--
-- Raises TOO_MANY_TARGETS and DEVICES_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.preview_targets(
    p_tenant_id text,
    p_job_id text,           -- of the new job; NULL: unknown
    p_request jsonb,         -- as in jobs.jobs.request
    p_selector_terms jsonb,  -- see target_query
    p_target_device_ids text[],
    p_max_targets integer,
    OUT devices integer,
    OUT stage_sizes integer[],  -- NULL: no rollout
    OUT device_ids text[],
    OUT overlapping_job_ids text[],
    OUT target_digest text,
    OUT time_zones text[]       -- of the devices; NULL: no start windows are in them
)
LANGUAGE plpgsql STABLE
-- settings: index, merge join, no parallel query, no jit
AS $$
DECLARE
    v_stages jsonb := p_request -> 'rollout' -> 'stages';
    v_claims integer[];
    v_claimed bigint[];
BEGIN
    EXECUTE format(
        $query$
        WITH targets AS MATERIALIZED (%s)
        SELECT coalesce(sum(c.devices), 0)::integer,
               array_agg(c.claim), array_agg(c.devices),
               jobs.target_digest(
                   coalesce(sum(c.devices), 0)::bigint, sum(c.first_sum), sum(c.second_sum)
               ),
               ARRAY(SELECT t.device_id FROM targets t ORDER BY t.device_id LIMIT 20),
               %s
        FROM (
            SELECT t.claim, count(*) AS devices,
                   sum(t.hashes[1]) AS first_sum, sum(t.hashes[2]) AS second_sum
            FROM (
                SELECT t.claim, jobs.target_hashes(t.device_id, t.claim) AS hashes
                FROM targets t
                OFFSET 0
            ) t
            GROUP BY t.claim
        ) c
        $query$,
        jobs.target_query(p_tenant_id, p_request, p_selector_terms, p_max_targets),
        CASE WHEN p_request ->> 'window_time_zone' = 'DEVICE'
             THEN 'ARRAY(SELECT DISTINCT t.time_zone FROM targets t)' ELSE 'NULL::text[]' END
    )
    INTO devices, v_claims, v_claimed, target_digest, device_ids, time_zones
    USING p_tenant_id, p_target_device_ids;

    IF devices > p_max_targets THEN
        PERFORM jobs.raise_error('TOO_MANY_TARGETS');
    END IF;
    IF devices < cardinality(p_target_device_ids) THEN
        PERFORM jobs.check_device_list(p_target_device_ids, ARRAY(
            SELECT d.device_id
            FROM public.device_state d
            WHERE d.tenant_id = p_tenant_id AND d.device_id = ANY (p_target_device_ids)
        ));
    END IF;
    IF v_stages IS NOT NULL THEN
        stage_sizes := jobs.stage_sizes(v_stages, devices, ARRAY(
            SELECT coalesce(v_claimed[array_position(v_claims, n)], 0)
            FROM generate_series(1, jsonb_array_length(v_stages)) AS n
            ORDER BY n
        ));
    END IF;
    overlapping_job_ids := jobs.overlapping_jobs(p_tenant_id, p_job_id, device_ids);
END $$;
