-- Finishes a range of a job's full pass whose devices have joined: ends the QUEUED executions of devices that are gone
-- from the device table, as DeleteDevices does, and schedules the next range, or after the last one the next pass.
-- Returns how many executions it ended: if these are 1,000, the range is not finished. If another server has finished
-- the range, only ends executions.
--
-- Changes that were not noted because their transactions began before the job was created are committed
-- p_settle_seconds later: until then, passes follow each other.
--
-- Waits up to p_wait_ms for the job lock, then raises lock_not_available (SQLSTATE 55P03).
CREATE OR REPLACE FUNCTION jobs.finish_scan_range(
    p_tenant_id text, p_job_id text,
    p_due_at timestamptz,         -- this and the next three: as next_scan_range returned them
    p_read_at timestamptz,
    p_after text,
    p_last text,
    p_interval_seconds double precision,  -- between the end of a pass and the next one
    p_settle_seconds double precision,
    p_wait_ms integer
) RETURNS integer
LANGUAGE plpgsql
-- settings: tenant, index, lock timeout
AS $$
DECLARE
    c_max_ended CONSTANT integer := 1000;  -- limits how long the job lock is held
    v_ended integer;
    v_now timestamptz;
    v_settled_at timestamptz;
    v_next_pass_at timestamptz;
BEGIN
    v_ended := jobs.end_removed_devices(p_tenant_id, p_job_id, p_after, p_last, c_max_ended, p_wait_ms);
    IF v_ended = c_max_ended THEN
        RETURN v_ended;
    END IF;

    v_now := jobs.clock_time();
    v_next_pass_at := v_now + make_interval(secs => p_interval_seconds);
    SELECT j.created_at + make_interval(secs => p_settle_seconds) INTO v_settled_at
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF p_after = '' THEN
        -- This pass, which began at p_read_at, looks at everything that was to be looked at again by then.
        UPDATE jobs.continuous_jobs c
        SET rescan_at = CASE WHEN greatest(c.rescan_at, v_settled_at) > p_read_at
                             THEN greatest(c.rescan_at, v_settled_at) END
        WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
          AND c.scan_due_at = p_due_at AND c.scan_after IS NULL;
    END IF;
    -- scan_due_at changes with each range, so it tells whether another server has finished this one.
    UPDATE jobs.continuous_jobs c
    SET scan_after = p_last,
        scan_due_at = CASE WHEN p_last IS NULL THEN coalesce(c.rescan_at, v_next_pass_at) ELSE v_now END,
        is_behind = c.is_behind AND (p_last IS NOT NULL OR c.rescan_at IS NOT NULL)
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
      AND c.scan_due_at = p_due_at AND coalesce(c.scan_after, '') = p_after;
    RETURN v_ended;
END $$;
