-- Starts a device's execution of p_job_id; without one, its next: what it is IN_PROGRESS
-- with, or else the oldest that is QUEUED. One that is IN_PROGRESS is answered unchanged;
-- no row means that there is none to do.
--
-- JB007 the device has no execution of this job      JB008 it is over; DETAIL has its status
CREATE OR REPLACE FUNCTION jobs.start_execution(
    p_tenant_id text,
    p_device_id text,
    p_job_id text,          -- NULL: the next
    p_status_details jsonb  -- NULL: what is stored is kept
) RETURNS SETOF jobs.execution_states
LANGUAGE plpgsql
AS $$
DECLARE
    v_job_id text := p_job_id;
    v_status jobs.execution_status;
    v_timeout interval;
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    LOOP
        IF p_job_id IS NULL THEN
            v_now := clock_timestamp();
            SELECT e.job_id INTO v_job_id
            FROM jobs.job_executions e
            JOIN jobs.jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
            WHERE e.tenant_id = p_tenant_id AND e.device_id = p_device_id
              AND e.status IN ('QUEUED', 'IN_PROGRESS')
              AND jobs.execution_status_at(
                  e.status, j.canceled_at, j.canceled_running, j.expires_at, v_now
              ) IN ('QUEUED', 'IN_PROGRESS')
              AND j.deleted_at IS NULL
            ORDER BY e.status = 'QUEUED', e.queued_at, e.job_id
            LIMIT 1;
            IF NOT FOUND THEN
                RETURN;
            END IF;
        END IF;

        PERFORM FROM jobs.job_progress p
        WHERE p.tenant_id = p_tenant_id AND p.job_id = v_job_id
        FOR UPDATE;

        v_now := clock_timestamp();
        SELECT jobs.execution_status_at(
                   e.status, j.canceled_at, j.canceled_running, j.expires_at, v_now
               ),
               make_interval(mins => j.in_progress_timeout_minutes)
        INTO v_status, v_timeout
        FROM jobs.job_executions e
        JOIN jobs.jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
        WHERE e.tenant_id = p_tenant_id AND e.job_id = v_job_id AND e.device_id = p_device_id
          AND j.deleted_at IS NULL;

        EXIT WHEN v_status IN ('QUEUED', 'IN_PROGRESS');
        IF p_job_id IS NOT NULL AND v_status IS NULL THEN
            RAISE EXCEPTION 'execution not found' USING ERRCODE = 'JB007';
        ELSIF p_job_id IS NOT NULL THEN
            RAISE EXCEPTION 'execution is over' USING ERRCODE = 'JB008', DETAIL = v_status;
        END IF;
        -- It was over, or gone, by the time its job was locked; there may be another one.
    END LOOP;

    IF v_status = 'QUEUED' THEN
        UPDATE jobs.job_executions e
        SET status = 'IN_PROGRESS', version = e.version + 1, started_at = v_now,
            last_updated_at = v_now, times_out_at = v_now + v_timeout,
            status_details = coalesce(p_status_details, e.status_details)
        WHERE e.tenant_id = p_tenant_id AND e.job_id = v_job_id AND e.device_id = p_device_id;

        UPDATE jobs.job_progress p
        SET queued = p.queued - 1, in_progress = p.in_progress + 1
        WHERE p.tenant_id = p_tenant_id AND p.job_id = v_job_id;
    END IF;

    RETURN QUERY
    SELECT s.*
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = v_job_id AND s.device_id = p_device_id;
END $$;
