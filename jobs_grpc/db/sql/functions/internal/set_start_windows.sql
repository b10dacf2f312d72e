-- Changes the start windows of a job, or their time zone, or both. The caller has set the tenant and holds
-- the job lock, so no execution starts in between.
--
-- Raises ZONE_NOT_ALLOWED for a zone without windows, for one that PostgreSQL does not know, and for DEVICE
-- unless the job was created with it: otherwise, no time zones of devices are stored.
CREATE OR REPLACE FUNCTION jobs.set_start_windows(
    p_tenant_id text, p_job_id text,
    p_fields text[],            -- as in UpdateJobRequest.update_mask
    p_windows integer[],        -- NULL: none
    p_zone text                 -- 'DEVICE': that of each execution
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_job record;
    v_windows integer[];
    v_zone text;
BEGIN
    SELECT j.start_windows, j.window_time_zone,
           coalesce(j.request ->> 'window_time_zone' = 'DEVICE', false) AS has_device_zones
    INTO v_job
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;

    v_windows := CASE WHEN 'start_windows' = ANY (p_fields) THEN p_windows
                      ELSE v_job.start_windows END;
    v_zone := CASE WHEN 'window_time_zone' = ANY (p_fields) THEN p_zone
                   WHEN v_job.start_windows IS NULL THEN 'UTC'
                   ELSE coalesce(v_job.window_time_zone, 'DEVICE') END;
    IF 'window_time_zone' = ANY (p_fields) AND v_windows IS NULL THEN
        PERFORM jobs.raise_error('ZONE_NOT_ALLOWED', 'is allowed only with start_windows');
    ELSIF v_zone = 'DEVICE' AND NOT v_job.has_device_zones THEN
        PERFORM jobs.raise_error(
            'ZONE_NOT_ALLOWED', 'can be DEVICE only if the job was created with it'
        );
    ELSIF v_zone <> 'DEVICE' AND NOT jobs.is_known_time_zone(v_zone) THEN
        PERFORM jobs.raise_error('ZONE_NOT_ALLOWED', 'is not known to the database');
    END IF;

    UPDATE jobs.jobs j
    SET start_windows = v_windows,
        window_time_zone = CASE WHEN v_windows IS NOT NULL THEN nullif(v_zone, 'DEVICE') END
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
END $$;
