-- Adds an event of a job to the queue, with the status and the counts that readers see at p_now. The caller
-- holds the job lock, has just written the change, and has set the tenant.
--
-- job.expired precedes the other events after the expiry: see add_expiry_events.
CREATE OR REPLACE FUNCTION jobs.add_event(
    p_tenant_id text,
    p_job_id text,
    p_now timestamptz,
    p_type text,                            -- as in Event.type
    p_user_id text DEFAULT NULL,            -- NULL: unknown, or not caused by a call of an operator
    p_details jsonb DEFAULT NULL,           -- see jobs.event_queue
    p_occurred_at timestamptz DEFAULT NULL  -- NULL: p_now
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    v_job record;
    v_held integer := 0;
BEGIN
    UPDATE jobs.job_progress p
    SET event_count = p.event_count + 1
    FROM jobs.jobs_with_release j
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
      AND j.tenant_id = p_tenant_id AND j.job_id = p_job_id
    RETURNING p.event_count, p.queued, p.in_progress, p.succeeded, p.failed, p.timed_out, p.rejected,
              jobs.job_status_with_pause_at(
                  j.status, j.expires_at, p.in_progress, j.paused_at, j.start_at > p_now, p_now
              ) AS status,
              jobs.queued_status_at(j.canceled_at, j.expires_at, p_now) AS queued_status,
              j.force_canceled, j.open_stage, jobs.released_count_at(j.release, p_now) AS released
    INTO v_job;

    -- The same as in job_states, which computes it for another time than p_now.
    IF v_job.queued_status <> 'QUEUED' THEN
        IF v_job.queued_status = 'TIMED_OUT' THEN
            v_job.timed_out := v_job.timed_out + v_job.queued;
        ELSE
            v_job.rejected := v_job.rejected + v_job.queued;
        END IF;
        v_job.queued := 0;
    ELSIF v_job.released IS NOT NULL AND v_job.queued > 0 THEN
        v_held := CASE
            WHEN v_job.open_stage IS NULL THEN v_job.queued  -- without a rollout, until the start
            ELSE (
                SELECT sum(stages.held)
                FROM unnest(jobs.held_executions(p_tenant_id, p_job_id, v_job.released))
                    AS stages (held)
            )
        END;
    END IF;
    IF v_job.force_canceled THEN
        v_job.rejected := v_job.rejected + v_job.in_progress;
        v_job.in_progress := 0;
    END IF;

    INSERT INTO jobs.event_queue
        (tenant_id, job_id, number, type, occurred_at, status, counts, user_id, details)
    VALUES
        (p_tenant_id, p_job_id, v_job.event_count, p_type, coalesce(p_occurred_at, p_now),
         v_job.status,
         ARRAY[v_job.queued - v_held, v_held, v_job.in_progress, v_job.succeeded, v_job.failed,
               v_job.timed_out, v_job.rejected],
         p_user_id, p_details);
END $$;
