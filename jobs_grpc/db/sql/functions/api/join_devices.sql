-- Adds executions of a continuous job for devices that match its target and have none, at most 2,000 per call. A device
-- whose execution ended because it was deleted before it started gets its next attempt, as by RetryExecutions. If no
-- device can join, takes no lock.
--
-- The join brake counts both kinds. If more devices can join than max_joins_per_hour allows, it lets that many join,
-- pauses the job unless it is paused already, and stops joins until ResumeJob. The job gets no more than p_max_targets
-- executions.
--
-- Waits up to p_wait_ms for each lock, then raises lock_not_available (SQLSTATE 55P03).
CREATE OR REPLACE FUNCTION jobs.join_devices(
    p_tenant_id text, p_job_id text,
    p_device_ids text[],    -- the devices to examine; NULL: the registered ones of the range
    p_after text,           -- the range: after this device_id
    p_last text,            -- and up to this one; NULL: to the end
    p_max_targets integer,
    p_wait_ms integer,
    OUT joined_count integer,
    OUT joined_up_to text,  -- call again for devices after this one; NULL: all were examined
    OUT has_ended boolean   -- no device can ever join again; the row of continuous_jobs is deleted
)
LANGUAGE plpgsql
-- settings: tenant, index, lock timeout
AS $$
DECLARE
    c_max_joins CONSTANT integer := 2000;
    v_now timestamptz := jobs.clock_time();
    v_continuous jobs.continuous_jobs;
    v_job record;
    v_device_ids text[];
    v_are_new boolean;      -- none of v_device_ids has an execution
    v_removed text[];       -- devices that have an execution
    v_new text[];           -- the others; parallel to v_time_zones
    v_time_zones text[];
BEGIN
    joined_count := 0;
    SELECT c.* INTO v_continuous
    FROM jobs.continuous_jobs c
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;
    has_ended := NOT FOUND;
    IF has_ended THEN
        RETURN;
    END IF;

    -- Read without locks; checked again under the locks.
    SELECT j.is_continuous AND j.deleted_at IS NULL AND NOT jobs.is_expired_at(j.expires_at, v_now) AS can_be_joined,
           coalesce(j.request ->> 'window_time_zone' = 'DEVICE', false) AS has_device_zones
    INTO v_job
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_job.can_be_joined THEN
        IF v_continuous.is_stopped THEN
            RETURN;
        END IF;
        SELECT array_agg(c.device_id ORDER BY c.device_id), bool_and(NOT c.has_execution)
        INTO v_device_ids, v_are_new
        FROM jobs.joinable_devices(
            p_tenant_id, p_job_id, v_continuous.terms, v_job.has_device_zones, p_device_ids, p_after, p_last,
            c_max_joins + 1
        ) c;
        IF cardinality(v_device_ids) > c_max_joins THEN
            joined_up_to := v_device_ids[c_max_joins];
            v_device_ids := v_device_ids[:c_max_joins];
        END IF;
        IF v_device_ids IS NULL OR v_continuous.is_full AND v_are_new AND NOT EXISTS (
            SELECT FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
              AND p.queued + p.in_progress + p.succeeded + p.failed + p.timed_out + p.rejected < p_max_targets
        ) THEN
            RETURN;
        END IF;
        -- DeleteDevices locks devices, then jobs. The request role may not lock rows of the platform: if it deletes a
        -- device now, the next full scan ends the execution.
        IF (SELECT t.is_own FROM jobs.device_tables t) THEN
            PERFORM set_config('lock_timeout', greatest(p_wait_ms, 1)::text, true);
            v_device_ids := jobs.share_devices(p_tenant_id, v_device_ids);
        END IF;
    END IF;

    IF NOT jobs.lock_job_with_timeout(p_tenant_id, p_job_id, p_wait_ms) THEN
        has_ended := true;
        joined_up_to := NULL;
        RETURN;
    END IF;
    v_now := jobs.clock_time();
    PERFORM jobs.set_read_time(v_now);
    SELECT c.* INTO v_continuous
    FROM jobs.continuous_jobs c
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;
    has_ended := NOT FOUND OR NOT EXISTS (
        SELECT FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.is_continuous
          AND j.deleted_at IS NULL AND NOT jobs.is_expired_at(j.expires_at, v_now)
    );
    IF has_ended OR v_continuous.is_stopped THEN
        joined_up_to := NULL;
        DELETE FROM jobs.continuous_jobs c
        WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id AND has_ended;
        RETURN;
    END IF;

    SELECT array_agg(c.device_id ORDER BY c.device_id) FILTER (WHERE c.has_execution),
           array_agg(c.device_id ORDER BY c.device_id) FILTER (WHERE NOT c.has_execution),
           array_agg(c.time_zone ORDER BY c.device_id) FILTER (WHERE NOT c.has_execution)
    INTO v_removed, v_new, v_time_zones
    FROM jobs.joinable_devices(
        p_tenant_id, p_job_id, v_continuous.terms, v_job.has_device_zones, v_device_ids, NULL, NULL, c_max_joins
    ) c;
    IF v_removed IS NULL AND v_new IS NULL THEN
        RETURN;
    END IF;
    joined_count := jobs.add_joined_executions(
        p_tenant_id, p_job_id, v_removed, v_new, v_time_zones, p_max_targets, v_now
    );
END $$;
