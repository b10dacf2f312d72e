-- Returns how long a new job takes at least and when it expires. Unless the request has an expiry, adds the
-- time that the job takes to the default, and stores it. The caller has set the tenant.
--
-- Raises EXPIRY_TOO_EARLY.
CREATE OR REPLACE FUNCTION jobs.fit_expiry(
    p_tenant_id text, p_job_id text,
    p_request jsonb,             -- as in jobs.jobs.request
    p_sizes integer[],           -- of the stages; without a rollout, of the job
    p_start_at timestamptz,      -- of the job: p_now or later
    p_now timestamptz,
    p_expires_in_hours integer,  -- see create_job; NULL: never
    p_time_zones text[],         -- of the devices, if the windows are in them; NULL: of the executions
    p_validate_only boolean,     -- there is no job and no execution
    OUT minimum_time jsonb,      -- see minimum_rollout_time
    OUT expires_at timestamptz
)
LANGUAGE plpgsql
-- settings: index
AS $$
DECLARE
    v_expires_in_hours integer := p_expires_in_hours;
    v_time_zones text[] := coalesce(p_time_zones, ARRAY[p_request ->> 'window_time_zone']);
BEGIN
    IF v_time_zones = '{DEVICE}' THEN
        v_time_zones := jobs.queued_time_zones(p_tenant_id, p_job_id);
    END IF;
    minimum_time := jobs.minimum_rollout_time(
        p_request -> 'rollout' -> 'stages', p_sizes, p_start_at,
        translate(p_request ->> 'start_windows', '[]', '{}')::integer[], v_time_zones
    );
    -- With require_start_approval, approve_start does this.
    IF NOT p_request ?| '{expires_in_hours,require_start_approval}' THEN
        v_expires_in_hours := least(
            ceil((minimum_time ->> 'seconds')::numeric / 3600) + v_expires_in_hours,
            /* maximum of CreateJobRequest.expires_in_hours */
        );
    END IF;
    expires_at := p_start_at + make_interval(hours => v_expires_in_hours);
    IF NOT p_validate_only AND v_expires_in_hours <> p_expires_in_hours THEN
        UPDATE jobs.jobs j
        SET expires_in_hours = v_expires_in_hours, expires_at = fit_expiry.expires_at
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    END IF;
    IF p_request ? 'require_start_approval' AND NOT p_request ? 'start_windows' THEN
        -- The hours of the request, unless it has none: without windows, the time does not depend on the approval.
        v_expires_in_hours := least(
            v_expires_in_hours, nullif((p_request -> 'expires_in_hours')::integer, 0)
        );
    END IF;
    PERFORM jobs.check_time_for_rollout(
        minimum_time, v_expires_in_hours * 3600, p_start_at > p_now
    );
END $$;
