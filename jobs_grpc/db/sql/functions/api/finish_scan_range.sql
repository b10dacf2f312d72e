-- Finishes a range of a job's full scan whose devices have joined. Ends the QUEUED and HELD executions of devices that
-- are gone from the device table, as DeleteDevices does. Schedules the next range; after the last one, the next scan.
-- Returns how many executions it ended; 1,000: the range is not finished. If another server has finished the range,
-- only ends executions.
--
-- A transaction that began before the job was created may have changed devices without a note. It is committed within
-- p_settle_seconds of the creation, so another scan begins after that time.
--
-- Waits up to p_wait_ms for the job lock, then raises lock_not_available (SQLSTATE 55P03).
CREATE OR REPLACE FUNCTION jobs.finish_scan_range(
    p_tenant_id text, p_job_id text,
    p_due_at timestamptz,         -- this and the next three: as next_scan_range returned them
    p_read_at timestamptz,
    p_after text,
    p_last text,
    p_interval_seconds double precision,  -- between the end of a scan and the next one
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
    v_next_scan_at timestamptz;
BEGIN
    v_ended := jobs.end_removed_devices(p_tenant_id, p_job_id, p_after, p_last, c_max_ended, p_wait_ms);
    IF v_ended = c_max_ended THEN
        RETURN v_ended;
    END IF;

    v_now := jobs.clock_time();
    v_next_scan_at := v_now + make_interval(secs => p_interval_seconds);
    SELECT j.created_at + make_interval(secs => p_settle_seconds) INTO v_settled_at
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF p_after = '' THEN
        -- This scan began at p_read_at, so it also serves what was scheduled for that time or earlier.
        UPDATE jobs.continuous_jobs c
        SET rescan_at = CASE WHEN greatest(c.rescan_at, v_settled_at) > p_read_at
                             THEN greatest(c.rescan_at, v_settled_at) END
        WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
          AND c.scan_due_at = p_due_at AND c.scan_after IS NULL;
    END IF;
    -- scan_due_at changes with each range, so it tells whether another server has finished this one.
    UPDATE jobs.continuous_jobs c
    SET scan_after = p_last,
        scan_due_at = CASE WHEN p_last IS NULL THEN coalesce(c.rescan_at, v_next_scan_at) ELSE v_now END,
        is_behind = c.is_behind AND (p_last IS NOT NULL OR c.rescan_at IS NOT NULL)
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
      AND c.scan_due_at = p_due_at AND coalesce(c.scan_after, '') = p_after;
    RETURN v_ended;
END $$;
