-- Takes the job lock and returns the state of the job. Until the transaction ends, no other
-- transaction changes the job, its executions or its counts. Sets the time for which readers derive states to that
-- of the lock, and adds the events of an expiry that has none yet. The caller has set the tenant.
--
-- Raises the error p_not_found if the job does not exist or was deleted, and JOB_CHANGED: see check_etag.
CREATE OR REPLACE FUNCTION jobs.lock_job(
    p_tenant_id text, p_job_id text,
    p_etag text DEFAULT '',      -- '': any
    p_not_found text DEFAULT 'JOB_NOT_FOUND',
    OUT locked_at timestamptz,   -- the time of the change
    OUT status jobs.job_status,  -- as stored, or COMPLETED if the job has expired at that time
    OUT status_text text,        -- as readers see it at that time
    OUT canceled_at timestamptz,
    OUT force_canceled boolean,
    OUT expires_at timestamptz,
    OUT paused_at timestamptz,
    OUT start_at timestamptz,
    OUT open_stage smallint,     -- NULL: no rollout
    OUT revision integer,
    OUT queued integer,          -- this and the next four: executions by stored status
    OUT in_progress integer,
    OUT failed integer,
    OUT timed_out integer,
    OUT rejected integer,
    OUT retrying integer,        -- see job_progress
    OUT execution_events boolean
)
LANGUAGE plpgsql
-- settings: index
AS $$
#variable_conflict use_column
DECLARE
    v_has_expiry_event boolean;
    v_is_expired boolean;
BEGIN
    SELECT p.queued, p.in_progress, p.failed, p.timed_out, p.rejected, p.retrying,
           p.has_expiry_event
    INTO queued, in_progress, failed, timed_out, rejected, retrying, v_has_expiry_event
    FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
    FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error(p_not_found, '', jsonb_build_object('job_id', p_job_id));
    END IF;

    -- Not jobs.now(), the start of the transaction: the job may have expired during the wait.
    locked_at := jobs.clock_time();
    -- A separate statement, so that its snapshot is newer than the lock.
    SELECT jobs.job_status_at(j.status, j.expires_at, in_progress, locked_at),
           jobs.job_status_with_pause_at(
               j.status, j.expires_at, in_progress, j.paused_at, j.start_at > locked_at, locked_at
           ),
           j.canceled_at, j.force_canceled, j.expires_at, j.paused_at, j.start_at, j.open_stage,
           j.revision, j.execution_events, jobs.is_expired_at(j.expires_at, locked_at)
    INTO status, status_text, canceled_at, force_canceled, expires_at, paused_at, start_at, open_stage,
         revision, execution_events, v_is_expired
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error(p_not_found, '', jsonb_build_object('job_id', p_job_id));
    END IF;
    PERFORM jobs.set_read_time(locked_at);
    PERFORM jobs.check_etag(p_tenant_id, p_job_id, p_etag, revision);
    IF v_is_expired AND NOT v_has_expiry_event THEN
        PERFORM jobs.add_expiry_events(p_tenant_id, p_job_id, locked_at);
    END IF;
END $$;
