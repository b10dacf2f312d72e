-- Returns what a target and a rollout select now: see preview_targets.
--
-- Raises TOO_MANY_TARGETS, DEVICES_NOT_FOUND and JOB_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.preview_target(
    p_tenant_id text,
    p_request jsonb,         -- as in jobs.jobs.request: the target and the rollout
    p_selector_terms jsonb,  -- see target_query
    p_target_device_ids text[],
    p_max_targets integer
) RETURNS TABLE (
    execution_count integer,
    stage_sizes integer[],
    device_ids text[],
    overlapping_job_ids text[],
    target_digest text
)
LANGUAGE plpgsql STABLE
-- settings: tenant, index
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobs.check_target(p_tenant_id, NULL, p_request, p_max_targets);

    RETURN QUERY
    SELECT p.devices, p.stage_sizes, p.device_ids, p.overlapping_job_ids, p.target_digest
    FROM jobs.preview_targets(
        p_tenant_id, NULL, p_request, p_selector_terms, p_target_device_ids, p_max_targets
    ) p;
END $$;
