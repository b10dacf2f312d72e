-- Checks the target of a new job, except a single device, before executions are inserted: rolling back a
-- million inserted rows leaves dead rows. For targets by selector or failed job, target_query limits the
-- devices instead. The caller has set the tenant.
--
-- Raises TOO_MANY_TARGETS and JOB_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.check_target(
    p_tenant_id text,
    p_job_id text,    -- of the new job; NULL: unknown
    p_request jsonb,  -- as in jobs.jobs.request
    p_max_targets integer
) RETURNS void
LANGUAGE plpgsql STABLE
-- settings: index
AS $$
BEGIN
    IF p_request ? 'target_group_id' AND EXISTS (
        SELECT FROM public.device_group_members m
        WHERE m.tenant_id = p_tenant_id AND m.group_id = p_request ->> 'target_group_id'
        OFFSET p_max_targets
    ) OR p_request ? 'target_all' AND EXISTS (
        SELECT FROM public.device_state d
        WHERE d.tenant_id = p_tenant_id
        OFFSET p_max_targets
    ) OR (p_request -> 'target_device_ids' -> 'count')::integer > p_max_targets THEN
        PERFORM jobs.raise_error('TOO_MANY_TARGETS');
    END IF;

    IF p_request ? 'target_failed_in' AND NOT EXISTS (
        SELECT FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id
          AND j.job_id = p_request -> 'target_failed_in' ->> 'job_id'
          AND j.job_id IS DISTINCT FROM p_job_id AND j.deleted_at IS NULL
    ) THEN
        PERFORM jobs.raise_error(
            'JOB_NOT_FOUND', '',
            jsonb_build_object('job_id', p_request -> 'target_failed_in' -> 'job_id')
        );
    END IF;
END $$;
