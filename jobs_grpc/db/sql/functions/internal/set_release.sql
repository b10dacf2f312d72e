-- Continues the release of a job at another rate or up to another rank. Sets release_base to the whole number of
-- executions that are released at p_now, and release_since to p_now minus the time that the new rate needs for the
-- fraction of the next one: a change of the rate loses no fraction. Before the start of the job, release_since is the
-- start. The caller holds the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.set_release(
    p_tenant_id text, p_job_id text,
    p_last_rank integer,  -- executions up to this rank may be released
    p_rate integer,       -- per minute; NULL: all at once
    p_now timestamptz
) RETURNS void
LANGUAGE plpgsql
-- settings: index
AS $$
DECLARE
    v_progress numeric;
    v_base integer;
    v_since timestamptz;
    v_start_at timestamptz;
BEGIN
    -- A pause stops the release, so the new rate starts at the pause.
    SELECT jobs.release_progress_at(j.release, p_now), coalesce(j.paused_at, p_now), j.start_at
    INTO v_progress, v_since, v_start_at
    FROM jobs.jobs_with_release j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    v_base := floor(v_progress);
    IF v_start_at > v_since THEN
        v_since := v_start_at;
    ELSIF p_rate IS NOT NULL THEN
        -- Rounded up to microseconds, so that nothing is lost.
        v_since := v_since - make_interval(
            secs => ceil((v_progress - v_base) * 60000000 / p_rate) / 1000000
        );
    END IF;
    UPDATE jobs.jobs j
    SET release_end = p_last_rank, release_base = v_base, release_rate = p_rate,
        release_since = v_since
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
END $$;
