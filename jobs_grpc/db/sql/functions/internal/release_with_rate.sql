-- depends on: release_progress_at
-- Returns release_base and release_since with which the release of a job continues at another rate:
-- the whole number of released executions, and p_now minus the fraction of the next release divided by
-- the new rate. So a change of the rate loses no fraction. Before the start of the job, release_since is
-- the start. The caller holds the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.release_with_rate(
    p_tenant_id text,
    p_job_id text,
    p_rate integer,  -- per minute; NULL: all at once
    p_now timestamptz,
    OUT release_base integer,
    OUT release_since timestamptz
)
LANGUAGE plpgsql STABLE
-- settings: index
AS $$
DECLARE
    v_progress numeric;
    v_start_at timestamptz;
BEGIN
    -- A pause stops the release, so the new rate starts at the pause.
    SELECT jobs.release_progress_at(j.release_end, j.release_base, j.release_rate, j.release_since,
                                    j.paused_at, p_now),
           coalesce(j.paused_at, p_now), j.start_at
    INTO v_progress, release_since, v_start_at
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    release_base := floor(v_progress);
    IF v_start_at > release_since THEN
        release_since := v_start_at;
    ELSIF p_rate IS NOT NULL THEN
        -- Rounded up to microseconds, so that nothing is lost.
        release_since := release_since - make_interval(
            secs => ceil((v_progress - release_base) * 60000000 / p_rate) / 1000000
        );
    END IF;
END $$;
