-- Approves the start of a job that was created with require_start_approval, and returns the job. Ends the pause of the
-- job if its cause is START_APPROVAL. Unless another call has changed expires_at, expires_in_hours counts from now, or
-- from start_at if that is later. If the start is already approved, changes nothing.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, START_NOT_APPROVABLE (with the status and the cause), SELF_APPROVAL and
-- EXPIRY_TOO_EARLY.
CREATE OR REPLACE FUNCTION jobs.approve_start(
    p_tenant_id text, p_job_id text,
    p_approved_by text,
    p_comment text,
    p_etag text,  -- '': any. Not checked if the start is approved, so that the call is safe to repeat.
    p_default_expires_in_hours integer  -- see create_job
) RETURNS SETOF jobs.job_details
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
DECLARE
    v_job record;
    v_start_at timestamptz;
    v_minimum_time jsonb;  -- see minimum_rollout_time
    v_hours integer;       -- of the request; NULL: the default
    v_has_first_expiry boolean;
    v_cause text;
BEGIN
    v_job := jobs.lock_job_for_start_approval(
        p_tenant_id, p_job_id, p_etag, p_approved_by, p_approves => true
    );
    IF NOT v_job.is_approved THEN
        v_start_at := greatest(v_job.locked_at, v_job.start_at);
        v_minimum_time := jobs.time_for_rest_of_rollout(p_tenant_id, p_job_id, v_job.locked_at);
        SELECT (j.request -> 'expires_in_hours')::integer, j.pause_cause,
               -- As create_job and set_start_at have set it.
               coalesce(j.start_at, j.created_at) + make_interval(hours => j.expires_in_hours)
                   = j.expires_at
        INTO v_hours, v_cause, v_has_first_expiry
        FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
        IF v_has_first_expiry THEN
            v_hours := coalesce(v_hours, least(
                ceil((v_minimum_time ->> 'seconds')::numeric / 3600)::integer
                    + p_default_expires_in_hours,
                /* maximum of CreateJobRequest.expires_in_hours */
            ));
            v_job.expires_at := v_start_at + make_interval(hours => v_hours);
        END IF;
        PERFORM jobs.check_time_for_rollout(
            v_minimum_time, extract(epoch FROM v_job.expires_at - v_start_at),
            v_start_at > v_job.locked_at
        );
        UPDATE jobs.jobs j
        SET start_approval = jsonb_build_object(
                'approved_at', v_job.locked_at, 'approved_by', p_approved_by, 'comment', p_comment
            ),
            expires_at = v_job.expires_at, revision = j.revision + 1
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
        PERFORM jobs.add_event(
            p_tenant_id, p_job_id, v_job.locked_at, 'job.start_approved', p_approved_by,
            jsonb_strip_nulls(jsonb_build_object('reason', nullif(p_comment, '')))
        );
        IF v_cause = 'START_APPROVAL' THEN
            PERFORM jobs.set_resumed(p_tenant_id, p_job_id, v_job.locked_at, p_approved_by);
        END IF;
    END IF;

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_details s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
END $$;
