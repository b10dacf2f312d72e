-- Returns executions of a job after p_after_device_id ('': from the start), in the order of device_id: at
-- most p_limit. The caller has set the tenant.
--
-- Executions that are stored as FAILED, TIMED_OUT or REJECTED have an index for each status. For other
-- statuses, and while a cancel or an expiry is not finalized, the function also reads the executions
-- that it skips, until it has found as many as the counts say. It also skips those of other stages and,
-- within the status that has the cause, of other causes. Those that a device ended have one of three
-- statuses, so there are at most as many as the three counts say.
CREATE OR REPLACE FUNCTION jobs.job_executions_after(
    p_tenant_id text, p_job_id text,
    p_status text,        -- NULL: all
    p_failure_code text,  -- NULL: all; '': failures without a code
    p_end_causes text[],  -- NULL: all
    p_stage integer,      -- NULL: all
    p_device_id_prefix text,
    p_after_device_id text,
    p_limit integer
) RETURNS SETOF jobs.execution_states
-- STABLE, so that the counts and the executions have the snapshot of the caller's statement.
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
DECLARE
    v_status text := coalesce(p_status, CASE
        WHEN p_end_causes <@ '{TIMEOUT,JOB_EXPIRED}' THEN 'TIMED_OUT'
        WHEN p_end_causes <@ '{JOB_CANCELED,EXECUTION_CANCELED,DEVICE_DELETED}' THEN 'REJECTED'
    END);
    -- The range of the prefix. A device_id has at most 256 characters, and U+10FFFF is the last one.
    v_first text := greatest(p_after_device_id, p_device_id_prefix COLLATE "C");
    v_last text := p_device_id_prefix || repeat(U&'\+10FFFF', 256);
    v_seen integer;    -- executions that readers see in v_status, or in the statuses of DEVICE
    v_stored integer;  -- those that are stored in it, if it has an index
BEGIN
    IF p_failure_code IS NOT NULL THEN
        RETURN QUERY
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
          -- A range of one code, because with failure_code = p_failure_code the primary key would
          -- deliver the order as well.
          AND (s.failure_code, s.device_id) >= (p_failure_code, v_first)
          AND (s.failure_code, s.device_id) <= (p_failure_code, v_last)
          AND s.failure_code <= p_failure_code AND s.device_id <> p_after_device_id
          AND (v_status IS NULL OR s.status = v_status)
          AND (p_stage IS NULL OR s.stage = p_stage)
          AND (p_end_causes IS NULL OR s.end_cause = ANY (p_end_causes))
        ORDER BY s.failure_code, s.device_id
        LIMIT p_limit;
        RETURN;
    END IF;

    IF v_status IS NOT NULL THEN
        SELECT
            CASE WHEN v_status = 'HELD' THEN s.held
                 WHEN v_status = 'QUEUED' THEN s.queued
                 WHEN v_status = 'IN_PROGRESS' THEN s.in_progress
                 WHEN v_status = 'SUCCEEDED' THEN s.succeeded
                 WHEN v_status = 'FAILED' THEN s.failed
                 WHEN v_status = 'TIMED_OUT' THEN s.timed_out
                 WHEN v_status = 'REJECTED' THEN s.rejected END,
            CASE WHEN v_status = 'FAILED' THEN p.failed
                 WHEN v_status = 'TIMED_OUT' THEN p.timed_out
                 WHEN v_status = 'REJECTED' THEN p.rejected END
        INTO v_seen, v_stored
        FROM jobs.job_states s
        JOIN jobs.job_progress p ON p.tenant_id = s.tenant_id AND p.job_id = s.job_id
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
    ELSIF p_end_causes = '{DEVICE}' THEN
        SELECT s.succeeded + s.failed + s.rejected
        INTO v_seen
        FROM jobs.job_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
    END IF;

    -- The statuses are constants, because a parameter does not match the predicate of an index.
    IF v_seen <> v_stored OR v_stored IS NULL THEN
        RETURN QUERY
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
          AND s.device_id BETWEEN v_first AND v_last AND s.device_id > p_after_device_id
          AND (v_status IS NULL OR s.status = v_status)
          AND (p_stage IS NULL OR s.stage = p_stage)
          AND (p_end_causes IS NULL OR s.end_cause = ANY (p_end_causes))
        ORDER BY s.device_id
        LIMIT least(p_limit, v_seen);
    ELSIF v_status = 'FAILED' THEN
        RETURN QUERY
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
          AND s.device_id BETWEEN v_first AND v_last AND s.device_id > p_after_device_id
          AND s.stored_status = 'FAILED' AND (p_stage IS NULL OR s.stage = p_stage)
          AND (p_end_causes IS NULL OR s.end_cause = ANY (p_end_causes))
        ORDER BY s.device_id
        LIMIT p_limit;
    ELSIF v_status = 'TIMED_OUT' THEN
        RETURN QUERY
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
          AND s.device_id BETWEEN v_first AND v_last AND s.device_id > p_after_device_id
          AND s.stored_status = 'TIMED_OUT' AND (p_stage IS NULL OR s.stage = p_stage)
          AND (p_end_causes IS NULL OR s.end_cause = ANY (p_end_causes))
        ORDER BY s.device_id
        LIMIT p_limit;
    ELSIF v_status = 'REJECTED' THEN
        RETURN QUERY
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
          AND s.device_id BETWEEN v_first AND v_last AND s.device_id > p_after_device_id
          AND s.stored_status = 'REJECTED' AND (p_stage IS NULL OR s.stage = p_stage)
          AND (p_end_causes IS NULL OR s.end_cause = ANY (p_end_causes))
        ORDER BY s.device_id
        LIMIT p_limit;
    END IF;
END $$;
