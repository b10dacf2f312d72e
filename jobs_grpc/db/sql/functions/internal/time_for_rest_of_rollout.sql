-- Returns how long it takes until the last device of a job can start: see minimum_rollout_time. If the job is paused,
-- assumes that the pause ends now. The caller holds the job lock and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.time_for_rest_of_rollout(
    p_tenant_id text, p_job_id text, p_now timestamptz
) RETURNS jsonb
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_job record;
    v_stages jsonb;
    v_sizes integer[];
BEGIN
    -- The times of the open stage do not count during a pause or before the start.
    SELECT j.open_stage, greatest(p_now, j.start_at) AS start_at,
           j.start_windows, p.queued,
           jobs.release_progress_at(j.release, p_now) AS released,
           greatest(extract(epoch FROM least(j.paused_at, p_now) - s.active_since), 0)
               AS open_seconds,
           CASE WHEN s.gate_met_since IS NOT NULL THEN
               greatest(extract(epoch FROM least(j.paused_at, p_now) - s.gate_met_since), 0)
           END AS met_seconds
    INTO v_job
    FROM jobs.jobs_with_release j
    JOIN jobs.job_progress p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
    LEFT JOIN jobs.job_stages s
        ON s.tenant_id = j.tenant_id AND s.job_id = j.job_id AND s.stage = j.open_stage
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_job.open_stage IS NULL THEN
        v_sizes := ARRAY[v_job.queued];
    ELSE
        SELECT jsonb_agg(to_jsonb(s) ORDER BY s.stage),
               array_agg(s.last_rank - s.first_rank + 1 ORDER BY s.stage)
        INTO v_stages, v_sizes
        FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
    END IF;
    RETURN jobs.minimum_rollout_time(
        v_stages, v_sizes, v_job.start_at, v_job.start_windows,
        CASE WHEN v_job.start_windows IS NOT NULL THEN
            jobs.queued_time_zones(p_tenant_id, p_job_id)
        END,
        coalesce(v_job.open_stage, 0), coalesce(v_job.released, 0),
        coalesce(v_job.open_seconds, 0), v_job.met_seconds
    );
END $$;
