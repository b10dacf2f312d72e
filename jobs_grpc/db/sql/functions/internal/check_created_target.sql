-- Checks the devices for which create_job has created executions, or would create them. The caller has set
-- the tenant.
--
-- Raises TOO_MANY_TARGETS, DEVICES_NOT_FOUND, TARGET_CHANGED, DEVICE_NOT_FOUND, GROUP_EMPTY, TENANT_EMPTY and
-- TARGET_EMPTY.
CREATE OR REPLACE FUNCTION jobs.check_created_target(
    p_tenant_id text,
    p_job_id text,
    p_request jsonb,  -- as in jobs.jobs.request
    p_target_device_ids text[],
    p_max_targets integer,
    p_executions integer,
    p_expected_digest text,  -- NULL: any
    p_digest text            -- with p_validate_only, of preview_targets; NULL: the executions exist
) RETURNS void
LANGUAGE plpgsql
-- settings: index
AS $$
DECLARE
    v_digest text := p_digest;
BEGIN
    -- check_target has checked the number, but devices may have been added to the group or the tenant since.
    IF p_executions > p_max_targets THEN
        PERFORM jobs.raise_error('TOO_MANY_TARGETS');
    END IF;
    IF p_digest IS NULL AND p_executions < cardinality(p_target_device_ids) THEN
        PERFORM jobs.check_device_list(p_target_device_ids, ARRAY(
            SELECT e.device_id
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
        ));
    END IF;

    IF p_expected_digest IS NOT NULL THEN
        IF p_digest IS NULL THEN
            -- Compute the digest from the executions, so that a concurrent change is detected.
            SELECT jobs.target_digest(count(*), sum(e.hashes[1]), sum(e.hashes[2])) INTO v_digest
            FROM (
                SELECT jobs.target_hashes(e.device_id, CASE
                    WHEN p_request -> 'rollout' -> 'stages' -> e.stage::integer
                         ?| '{group_id,selector}' THEN e.stage + 1
                END) AS hashes
                FROM jobs.job_executions e
                WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
                OFFSET 0
            ) e;
        END IF;
        IF v_digest <> p_expected_digest THEN
            PERFORM jobs.raise_error('TARGET_CHANGED', '', jsonb_build_object(
                'device_count', p_executions::text,
                'expected_count', split_part(p_expected_digest, '-', 1)
            ));
        END IF;
    END IF;

    IF p_executions > 0 OR p_request ? 'continuous' THEN
        RETURN;
    ELSIF p_request ? 'target_device_id' THEN
        PERFORM jobs.raise_error('DEVICE_NOT_FOUND', '', jsonb_build_object(
            'device_id', p_request -> 'target_device_id'
        ));
    ELSIF p_request ? 'target_group_id' THEN
        PERFORM jobs.raise_error('GROUP_EMPTY', '', jsonb_build_object(
            'group_id', p_request -> 'target_group_id'
        ));
    ELSIF p_request ? 'target_all' THEN
        PERFORM jobs.raise_error('TENANT_EMPTY');
    ELSE
        PERFORM jobs.raise_error('TARGET_EMPTY', '', jsonb_build_object(
            'failed_in', p_request -> 'target_failed_in' -> 'job_id',
            'selector', left(p_request ->> 'target_selector', 200)
        ));
    END IF;
END $$;
