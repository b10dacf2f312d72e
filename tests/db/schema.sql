CREATE SCHEMA jobs;

CREATE TYPE jobs.execution_status AS ENUM (
    'QUEUED',
    'IN_PROGRESS',
    'SUCCEEDED',
    'FAILED',
    'TIMED_OUT',
    'REJECTED'
);

CREATE TYPE jobs.job_status AS ENUM (
    'IN_PROGRESS',
    'COMPLETED',
    'CANCELED'
);

CREATE TABLE jobs.job_progress (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    queued integer NOT NULL,
    in_progress integer DEFAULT 0 NOT NULL,
    succeeded integer DEFAULT 0 NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    timed_out integer DEFAULT 0 NOT NULL,
    rejected integer DEFAULT 0 NOT NULL,
    CONSTRAINT job_progress_failed_check CHECK ((failed >= 0)),
    CONSTRAINT job_progress_in_progress_check CHECK ((in_progress >= 0)),
    CONSTRAINT job_progress_queued_check CHECK ((queued >= 0)),
    CONSTRAINT job_progress_rejected_check CHECK ((rejected >= 0)),
    CONSTRAINT job_progress_succeeded_check CHECK ((succeeded >= 0)),
    CONSTRAINT job_progress_timed_out_check CHECK ((timed_out >= 0))
)
WITH (fillfactor='50');

CREATE TABLE jobs.jobs (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    document_type text NOT NULL,
    document_params jsonb NOT NULL,
    target_device_id text,
    target_group_id text,
    target_all boolean NOT NULL,
    status jobs.job_status DEFAULT 'IN_PROGRESS'::jobs.job_status NOT NULL,
    expires_in_hours integer,
    expires_at timestamp with time zone,
    in_progress_timeout_minutes integer,
    completed_at timestamp with time zone,
    canceled_at timestamp with time zone,
    cancel_reason text,
    force_canceled boolean DEFAULT false NOT NULL,
    deleted_at timestamp with time zone,
    finalized boolean DEFAULT false NOT NULL,
    created_by text,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT jobs_check CHECK (((num_nonnulls(target_device_id, target_group_id) + (target_all)::integer) = 1)),
    CONSTRAINT jobs_check1 CHECK (((status = 'COMPLETED'::jobs.job_status) = (completed_at IS NOT NULL))),
    CONSTRAINT jobs_check2 CHECK (((status = 'CANCELED'::jobs.job_status) = (canceled_at IS NOT NULL))),
    CONSTRAINT jobs_check3 CHECK (((canceled_at IS NULL) = (cancel_reason IS NULL))),
    CONSTRAINT jobs_check4 CHECK (((canceled_at IS NOT NULL) OR (NOT force_canceled)))
);

CREATE FUNCTION jobs.active_jobs(p_tenant_id text, p_job_id text, p_max integer) RETURNS integer
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT (count(*))::integer AS count
    FROM ( SELECT
            FROM jobs.jobs j
           WHERE ((j.tenant_id = active_jobs.p_tenant_id) AND (j.job_id <> active_jobs.p_job_id) AND (j.status = 'IN_PROGRESS'::jobs.job_status) AND (j.deleted_at IS NULL) AND ((j.expires_at IS NULL) OR (j.expires_at > now())))
         UNION ALL
          SELECT
            FROM (jobs.jobs j
              JOIN jobs.job_progress p ON (((p.tenant_id = j.tenant_id) AND (p.job_id = j.job_id))))
           WHERE ((j.tenant_id = active_jobs.p_tenant_id) AND (j.job_id <> active_jobs.p_job_id) AND (j.status = 'IN_PROGRESS'::jobs.job_status) AND (j.deleted_at IS NULL) AND (j.expires_at <= now()) AND (p.in_progress > 0))
  LIMIT active_jobs.p_max) active;
END;

CREATE FUNCTION jobs.admit_active_job(p_tenant_id text, p_job_id text, p_max integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_at_once integer := current_setting('max_connections')::integer;
    v_lock bigint := hashtextextended('jobs of ' || p_tenant_id, 0);
BEGIN
    IF p_max IS NULL THEN
        RETURN;
    END IF;
    -- Which lock, is decided with some room: two who share it could not both make it theirs.
    IF jobs.active_jobs(p_tenant_id, p_job_id, p_max) < p_max - 2 * v_at_once THEN
        PERFORM pg_advisory_xact_lock_shared(v_lock);
        IF jobs.active_jobs(p_tenant_id, p_job_id, p_max) < p_max - v_at_once THEN
            RETURN;
        END IF;
    END IF;
    PERFORM pg_advisory_xact_lock(v_lock);
    IF jobs.active_jobs(p_tenant_id, p_job_id, p_max) >= p_max THEN
        RAISE EXCEPTION 'too many active jobs' USING ERRCODE = 'JB014';
    END IF;
END $$;

CREATE FUNCTION jobs.apply_retention(p_tenant_id text, p_job_id text, p_days integer, p_wait_ms integer) RETURNS boolean
    LANGUAGE plpgsql
    SET lock_timeout TO '1s'
    AS $$
DECLARE
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF NOT jobs.lock_job(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN false;
    END IF;
    v_now := clock_timestamp();

    UPDATE jobs.jobs j
    SET deleted_at = v_now
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND j.status <> 'IN_PROGRESS' AND j.deleted_at IS NULL
      AND j.updated_at < v_now - make_interval(days => p_days);
    RETURN FOUND;
END $$;

CREATE FUNCTION jobs.execution_end_details(status jobs.execution_status, cancel_reason text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN (status = 'REJECTED'::jobs.execution_status) THEN jsonb_build_object('reason', cancel_reason) ELSE '{"reason": "job expired"}'::jsonb END;

CREATE FUNCTION jobs.queued_status_at(canceled_at timestamp with time zone, expires_at timestamp with time zone, at timestamp with time zone) RETURNS jobs.execution_status
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN (expires_at <= COALESCE(canceled_at, at)) THEN 'TIMED_OUT'::jobs.execution_status WHEN (canceled_at IS NOT NULL) THEN 'REJECTED'::jobs.execution_status ELSE 'QUEUED'::jobs.execution_status END;

CREATE FUNCTION jobs.execution_status_at(status jobs.execution_status, canceled_at timestamp with time zone, force_canceled boolean, expires_at timestamp with time zone, at timestamp with time zone) RETURNS jobs.execution_status
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN (status = 'QUEUED'::jobs.execution_status) THEN jobs.queued_status_at(canceled_at, expires_at, at) WHEN ((status = 'IN_PROGRESS'::jobs.execution_status) AND force_canceled) THEN 'REJECTED'::jobs.execution_status ELSE status END;

CREATE TABLE jobs.job_executions (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    device_id text NOT NULL COLLATE pg_catalog."C",
    status jobs.execution_status DEFAULT 'QUEUED'::jobs.execution_status NOT NULL,
    execution_number integer DEFAULT 1 NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    canceled_by_operator boolean DEFAULT false NOT NULL,
    queued_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    times_out_at timestamp with time zone,
    last_updated_at timestamp with time zone NOT NULL,
    status_details jsonb
);

CREATE VIEW jobs.execution_states WITH (security_invoker='true') AS
 SELECT e.tenant_id,
    e.job_id,
    e.device_id,
    (d.status)::text AS status,
        CASE
            WHEN (d.status = e.status) THEN e.status_details
            ELSE jobs.execution_end_details(d.status, j.cancel_reason)
        END AS status_details,
    e.execution_number,
    e.queued_at,
    e.started_at,
        CASE
            WHEN (d.status = e.status) THEN e.last_updated_at
            WHEN (d.status = 'REJECTED'::jobs.execution_status) THEN j.canceled_at
            ELSE j.expires_at
        END AS last_updated_at,
    e.version,
    (e.status = ANY (ARRAY['QUEUED'::jobs.execution_status, 'IN_PROGRESS'::jobs.execution_status])) AS stored_pending,
    j.document_type,
    j.document_params,
    j.expires_at,
        CASE
            WHEN (d.status = 'IN_PROGRESS'::jobs.execution_status) THEN e.times_out_at
            ELSE NULL::timestamp with time zone
        END AS times_out_at
   FROM ((jobs.job_executions e
     JOIN jobs.jobs j ON (((j.tenant_id = e.tenant_id) AND (j.job_id = e.job_id))))
     CROSS JOIN LATERAL ( SELECT jobs.execution_status_at(e.status, j.canceled_at, j.force_canceled, j.expires_at, now()) AS status) d)
  WHERE (j.deleted_at IS NULL);

CREATE FUNCTION jobs.cancel_execution(p_tenant_id text, p_job_id text, p_device_id text, p_reason text, p_force boolean) RETURNS SETOF jobs.execution_states
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
DECLARE
    v_status jobs.execution_status;
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    PERFORM FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
    FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'execution not found' USING ERRCODE = 'JB007';
    END IF;

    v_now := clock_timestamp();
    SELECT jobs.execution_status_at(
        e.status, j.canceled_at, j.force_canceled, j.expires_at, v_now
    )
    INTO v_status
    FROM jobs.job_executions e
    JOIN jobs.jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = p_device_id
      AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'execution not found' USING ERRCODE = 'JB007';
    ELSIF v_status NOT IN ('QUEUED', 'IN_PROGRESS') THEN
        RAISE EXCEPTION 'execution is over' USING ERRCODE = 'JB008', DETAIL = v_status;
    ELSIF v_status = 'IN_PROGRESS' AND NOT p_force THEN
        RAISE EXCEPTION 'execution is running' USING ERRCODE = 'JB010';
    END IF;

    UPDATE jobs.job_executions e
    SET status = 'REJECTED', canceled_by_operator = true, status_details = jsonb_build_object('reason', p_reason),
        version = e.version + 1, last_updated_at = v_now, times_out_at = NULL
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = p_device_id;

    UPDATE jobs.job_progress p
    SET queued = p.queued - (v_status = 'QUEUED')::integer,
        in_progress = p.in_progress - (v_status = 'IN_PROGRESS')::integer,
        rejected = p.rejected + 1
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

    PERFORM jobs.complete_jobs(p_tenant_id, ARRAY[p_job_id], v_now);

    RETURN QUERY
    SELECT s.*
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.device_id = p_device_id;
END $$;

CREATE FUNCTION jobs.cancel_job(p_tenant_id text, p_job_id text, p_reason text, p_force boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_in_progress integer;
    v_status jobs.job_status;
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    SELECT p.in_progress INTO v_in_progress
    FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
    FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;

    -- Read after the lock was had, at the time after it was had: waiting for it may
    -- have taken the job past its expiry.
    v_now := clock_timestamp();
    SELECT jobs.job_status_at(j.status, j.expires_at, v_in_progress, v_now) INTO v_status
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;
    IF v_status <> 'IN_PROGRESS' THEN
        RAISE EXCEPTION 'job is over' USING ERRCODE = 'JB006', DETAIL = v_status;
    END IF;

    UPDATE jobs.jobs
    SET status = 'CANCELED', canceled_at = v_now, cancel_reason = p_reason,
        force_canceled = p_force, finalized = false, updated_at = v_now
    WHERE tenant_id = p_tenant_id AND job_id = p_job_id;
END $$;

CREATE FUNCTION jobs.complete_jobs(p_tenant_id text, p_job_ids text[], p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE jobs.jobs j
    SET status = 'COMPLETED', completed_at = p_now, updated_at = p_now,
        finalized = p.queued = 0
    FROM jobs.job_progress p
    WHERE j.tenant_id = p_tenant_id AND j.job_id = ANY (p_job_ids) AND j.status = 'IN_PROGRESS'
      AND p.tenant_id = j.tenant_id AND p.job_id = j.job_id
      AND p.in_progress = 0 AND (p.queued = 0 OR j.expires_at <= p_now);
END $$;

CREATE FUNCTION jobs.create_job(p_tenant_id text, p_job_id text, p_document_type text, p_document_params jsonb, p_target_device_id text, p_target_group_id text, p_target_all boolean, p_expires_in_hours integer, p_in_progress_timeout_minutes integer, p_created_by text, p_max_targets integer, p_max_active_jobs integer) RETURNS TABLE(execution_count integer, expires_at timestamp with time zone)
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    -- The job_id is claimed first: of several equal requests at once, the others wait
    -- here for the first to commit.
    INSERT INTO jobs.jobs
        (tenant_id, job_id, document_type, document_params, target_device_id, target_group_id,
         target_all, expires_in_hours, expires_at, in_progress_timeout_minutes, created_by,
         created_at, updated_at)
    VALUES
        (p_tenant_id, p_job_id, p_document_type, p_document_params, p_target_device_id,
         p_target_group_id, p_target_all, p_expires_in_hours,
         v_now + make_interval(hours => p_expires_in_hours), p_in_progress_timeout_minutes,
         p_created_by, v_now, v_now)
    ON CONFLICT (tenant_id, job_id) DO NOTHING;

    IF NOT FOUND THEN
        RETURN QUERY
        SELECT s.total_executions, j.created_at + make_interval(hours => j.expires_in_hours)
        FROM jobs.job_states s
        JOIN jobs.jobs j ON j.tenant_id = s.tenant_id AND j.job_id = s.job_id
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
          AND s.document_type = p_document_type
          AND s.document_params = p_document_params
          AND s.target_device_id IS NOT DISTINCT FROM p_target_device_id
          AND s.target_group_id IS NOT DISTINCT FROM p_target_group_id
          AND s.target_all = p_target_all
          AND j.expires_in_hours IS NOT DISTINCT FROM p_expires_in_hours
          AND j.in_progress_timeout_minutes IS NOT DISTINCT FROM p_in_progress_timeout_minutes;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'job_id taken' USING ERRCODE = 'JB004';
        END IF;
        RETURN;
    END IF;

    PERFORM jobs.admit_active_job(p_tenant_id, p_job_id, p_max_active_jobs);

    -- Before anything is inserted: to take back a million rows costs as much as to keep them.
    IF p_target_group_id IS NOT NULL AND EXISTS (
        SELECT FROM public.device_group_members m
        WHERE m.tenant_id = p_tenant_id AND m.group_id = p_target_group_id
        OFFSET p_max_targets
    ) OR p_target_all AND EXISTS (
        SELECT FROM public.device_state d
        WHERE d.tenant_id = p_tenant_id
        OFFSET p_max_targets
    ) THEN
        RAISE EXCEPTION 'too many targets' USING ERRCODE = 'JB013';
    END IF;

    IF p_target_device_id IS NOT NULL THEN
        INSERT INTO jobs.job_executions (tenant_id, job_id, device_id, queued_at, last_updated_at)
        SELECT p_tenant_id, p_job_id, d.device_id, v_now, v_now
        FROM public.device_state d
        WHERE d.tenant_id = p_tenant_id AND d.device_id = p_target_device_id;
    ELSIF p_target_group_id IS NOT NULL THEN
        INSERT INTO jobs.job_executions (tenant_id, job_id, device_id, queued_at, last_updated_at)
        SELECT p_tenant_id, p_job_id, m.device_id, v_now, v_now
        FROM public.device_group_members m
        WHERE m.tenant_id = p_tenant_id AND m.group_id = p_target_group_id;
    ELSE
        INSERT INTO jobs.job_executions (tenant_id, job_id, device_id, queued_at, last_updated_at)
        SELECT p_tenant_id, p_job_id, d.device_id, v_now, v_now
        FROM public.device_state d
        WHERE d.tenant_id = p_tenant_id;
    END IF;
    GET DIAGNOSTICS execution_count = ROW_COUNT;

    IF execution_count = 0 THEN
        IF p_target_device_id IS NOT NULL THEN
            RAISE EXCEPTION 'device not found' USING ERRCODE = 'JB001';
        ELSIF p_target_group_id IS NOT NULL THEN
            RAISE EXCEPTION 'group has no members' USING ERRCODE = 'JB002';
        ELSE
            RAISE EXCEPTION 'no devices in tenant' USING ERRCODE = 'JB003';
        END IF;
    END IF;

    -- Some may have joined meanwhile.
    IF execution_count > p_max_targets THEN
        RAISE EXCEPTION 'too many targets' USING ERRCODE = 'JB013';
    END IF;

    INSERT INTO jobs.job_progress (tenant_id, job_id, queued)
    VALUES (p_tenant_id, p_job_id, execution_count);

    expires_at := v_now + make_interval(hours => p_expires_in_hours);
    RETURN NEXT;
END $$;

CREATE FUNCTION jobs.delete_job(p_tenant_id text, p_job_id text) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_in_progress integer;
    v_status jobs.job_status;
    v_at_work boolean;
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    SELECT p.in_progress INTO v_in_progress
    FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
    FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;

    v_now := clock_timestamp();
    SELECT jobs.job_status_at(j.status, j.expires_at, v_in_progress, v_now),
           v_in_progress > 0 AND NOT j.force_canceled
    INTO v_status, v_at_work
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    ELSIF v_status = 'IN_PROGRESS' OR v_at_work THEN
        RAISE EXCEPTION 'job is not over' USING ERRCODE = 'JB012', DETAIL = v_status;
    END IF;

    UPDATE jobs.jobs
    SET deleted_at = v_now
    WHERE tenant_id = p_tenant_id AND job_id = p_job_id;
END $$;

CREATE FUNCTION jobs.execution_page(p_tenant_id text, p_job_id text, p_status text, p_after_device_id text, p_limit integer) RETURNS TABLE(device_ids text[], statuses text[], status_details jsonb[], execution_numbers integer[], queued_ats timestamp with time zone[], started_ats timestamp with time zone[], last_updated_ats timestamp with time zone[], times_out_ats timestamp with time zone[])
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 SELECT array_agg(e.device_id) AS array_agg,
     array_agg(e.status) AS array_agg,
     array_agg(e.status_details) AS array_agg,
     array_agg(e.execution_number) AS array_agg,
     array_agg(e.queued_at) AS array_agg,
     array_agg(e.started_at) AS array_agg,
     array_agg(e.last_updated_at) AS array_agg,
     array_agg(e.times_out_at) AS array_agg
    FROM ( SELECT s.tenant_id,
             s.job_id,
             s.device_id,
             s.status,
             s.status_details,
             s.execution_number,
             s.queued_at,
             s.started_at,
             s.last_updated_at,
             s.version,
             s.stored_pending,
             s.document_type,
             s.document_params,
             s.expires_at,
             s.times_out_at
            FROM jobs.execution_states s
           WHERE ((s.tenant_id = execution_page.p_tenant_id) AND (s.job_id = execution_page.p_job_id) AND (s.device_id > execution_page.p_after_device_id) AND ((execution_page.p_status IS NULL) OR (s.status = execution_page.p_status)))
           ORDER BY s.device_id
          LIMIT execution_page.p_limit) e;
END;

CREATE FUNCTION jobs.finalize_job(p_tenant_id text, p_job_id text, p_after_device_id text, p_limit integer, p_wait_ms integer) RETURNS text
    LANGUAGE plpgsql
    SET lock_timeout TO '1s'
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
DECLARE
    v_now timestamptz;
    v_fate jobs.execution_status;
    v_dated timestamptz;
    v_canceled_at timestamptz;
    v_cancel_reason text;
    v_in_progress integer;
    v_queued integer;
    v_cut_off boolean;
    v_cut_offs integer := 0;
    v_count integer;
    v_last text;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF NOT jobs.lock_job(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN NULL;
    END IF;
    v_now := clock_timestamp();
    SELECT p.queued, p.in_progress INTO v_queued, v_in_progress
    FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

    SELECT jobs.queued_status_at(j.canceled_at, j.expires_at, v_now),
           CASE WHEN j.expires_at <= coalesce(j.canceled_at, v_now)
                THEN j.expires_at ELSE j.canceled_at END,
           j.canceled_at, j.cancel_reason, j.force_canceled AND v_in_progress > 0
    INTO v_fate, v_dated, v_canceled_at, v_cancel_reason, v_cut_off
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND NOT j.finalized
      AND j.deleted_at IS NULL;
    IF NOT FOUND OR v_fate = 'QUEUED' THEN
        RETURN NULL;
    END IF;

    IF v_queued > 0 OR v_cut_off THEN
        SELECT e.device_id INTO v_last
        FROM jobs.job_executions e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
          AND e.device_id > p_after_device_id
        ORDER BY e.device_id
        LIMIT 1 OFFSET p_limit - 1;

        UPDATE jobs.job_executions e
        SET status = v_fate, canceled_by_operator = v_fate = 'REJECTED', last_updated_at = v_dated,
            status_details = jobs.execution_end_details(v_fate, v_cancel_reason)
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
          AND e.device_id > p_after_device_id
          AND (v_last IS NULL OR e.device_id <= v_last)
          AND e.status = 'QUEUED';
        GET DIAGNOSTICS v_count = ROW_COUNT;

        IF v_cut_off THEN
            UPDATE jobs.job_executions e
            SET status = 'REJECTED', canceled_by_operator = true, last_updated_at = v_canceled_at,
                times_out_at = NULL,
                status_details = jobs.execution_end_details('REJECTED', v_cancel_reason)
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
              AND e.device_id > p_after_device_id
              AND (v_last IS NULL OR e.device_id <= v_last)
              AND e.status = 'IN_PROGRESS';
            GET DIAGNOSTICS v_cut_offs = ROW_COUNT;
        END IF;

        UPDATE jobs.job_progress p
        SET queued = p.queued - v_count,
            in_progress = p.in_progress - v_cut_offs,
            timed_out = p.timed_out + CASE v_fate WHEN 'TIMED_OUT' THEN v_count ELSE 0 END,
            rejected = p.rejected + v_cut_offs + CASE v_fate WHEN 'REJECTED' THEN v_count ELSE 0 END
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

        IF v_queued > v_count OR (v_cut_off AND v_in_progress > v_cut_offs) THEN
            RETURN v_last;
        END IF;
    END IF;

    UPDATE jobs.jobs j
    SET finalized = true,
        status = jobs.job_status_at(j.status, j.expires_at, v_in_progress, v_now),
        completed_at = CASE WHEN j.status = 'IN_PROGRESS' AND v_in_progress = 0
                            THEN j.expires_at ELSE j.completed_at END,
        updated_at = CASE WHEN j.status = 'IN_PROGRESS' AND v_in_progress = 0
                          THEN j.expires_at ELSE j.updated_at END
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    RETURN NULL;
END $$;

CREATE FUNCTION jobs.get_execution(p_tenant_id text, p_device_id text, p_job_id text) RETURNS SETOF jobs.execution_states
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT s.*
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.device_id = p_device_id;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'execution not found' USING ERRCODE = 'JB007';
    END IF;
END $$;

CREATE FUNCTION jobs.get_job(p_tenant_id text, p_job_id text, p_executions_limit integer) RETURNS TABLE(tenant_id text, job_id text, document_type text, document_params jsonb, target_device_id text, target_group_id text, target_all boolean, status text, expires_at timestamp with time zone, created_by text, created_at timestamp with time zone, updated_at timestamp with time zone, cancel_reason text, total_executions integer, queued integer, in_progress integer, succeeded integer, failed integer, timed_out integer, rejected integer, completed_at timestamp with time zone, in_progress_timeout_minutes integer, stored_status jobs.job_status, device_ids text[], statuses text[], status_details jsonb[], execution_numbers integer[], queued_ats timestamp with time zone[], started_ats timestamp with time zone[], last_updated_ats timestamp with time zone[], times_out_ats timestamp with time zone[])
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT s.*, e.*
    FROM jobs.job_states s
    CROSS JOIN LATERAL
        jobs.execution_page(p_tenant_id, p_job_id, NULL, '', p_executions_limit) e
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;
END $$;

CREATE FUNCTION jobs.job_status_at(status jobs.job_status, expires_at timestamp with time zone, in_progress integer, at timestamp with time zone) RETURNS jobs.job_status
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN ((status = 'IN_PROGRESS'::jobs.job_status) AND (in_progress = 0) AND (expires_at <= at)) THEN 'COMPLETED'::jobs.job_status ELSE status END;

CREATE VIEW jobs.job_states WITH (security_invoker='true') AS
 SELECT j.tenant_id,
    j.job_id,
    j.document_type,
    j.document_params,
    j.target_device_id,
    j.target_group_id,
    j.target_all,
    (d.status)::text AS status,
    j.expires_at,
    j.created_by,
    j.created_at,
        CASE
            WHEN (d.status = j.status) THEN j.updated_at
            ELSE j.expires_at
        END AS updated_at,
    j.cancel_reason,
    (((((p.queued + p.in_progress) + p.succeeded) + p.failed) + p.timed_out) + p.rejected) AS total_executions,
        CASE
            WHEN (d.queued_as = 'QUEUED'::jobs.execution_status) THEN p.queued
            ELSE 0
        END AS queued,
        CASE
            WHEN j.force_canceled THEN 0
            ELSE p.in_progress
        END AS in_progress,
    p.succeeded,
    p.failed,
    (p.timed_out +
        CASE
            WHEN (d.queued_as = 'TIMED_OUT'::jobs.execution_status) THEN p.queued
            ELSE 0
        END) AS timed_out,
    ((p.rejected +
        CASE
            WHEN (d.queued_as = 'REJECTED'::jobs.execution_status) THEN p.queued
            ELSE 0
        END) +
        CASE
            WHEN j.force_canceled THEN p.in_progress
            ELSE 0
        END) AS rejected,
        CASE
            WHEN (d.status = j.status) THEN j.completed_at
            ELSE j.expires_at
        END AS completed_at,
    j.in_progress_timeout_minutes,
    j.status AS stored_status
   FROM ((jobs.jobs j
     JOIN jobs.job_progress p ON (((p.tenant_id = j.tenant_id) AND (p.job_id = j.job_id))))
     CROSS JOIN LATERAL ( SELECT jobs.job_status_at(j.status, j.expires_at, p.in_progress, now()) AS status,
            jobs.queued_status_at(j.canceled_at, j.expires_at, now()) AS queued_as) d)
  WHERE (j.deleted_at IS NULL);

CREATE FUNCTION jobs.get_jobs(p_tenant_id text, p_job_ids text[]) RETURNS SETOF jobs.job_states
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_states s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = ANY (p_job_ids);
END $$;

CREATE FUNCTION jobs.list_device_executions(p_tenant_id text, p_device_id text, p_job_id text, p_status text, p_before_queued_at timestamp with time zone, p_before_job_id text, p_limit integer) RETURNS SETOF jobs.execution_states
    LANGUAGE plpgsql
    SET enable_sort TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT s.*
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.device_id = p_device_id
      AND (p_job_id IS NULL OR s.job_id = p_job_id)
      AND (p_status IS NULL OR s.status = p_status)
      AND (s.queued_at, s.job_id)
          < (coalesce(p_before_queued_at, 'infinity'), coalesce(p_before_job_id, ''))
    ORDER BY s.queued_at DESC, s.job_id DESC
    LIMIT p_limit;
END $$;

CREATE FUNCTION jobs.list_execution_attempts(p_tenant_id text, p_job_id text, p_device_id text, p_limit integer) RETURNS TABLE(device_id text, status text, status_details jsonb, execution_number integer, queued_at timestamp with time zone, started_at timestamp with time zone, last_updated_at timestamp with time zone, times_out_at timestamp with time zone)
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    WITH present AS (
        SELECT s.device_id, s.status, s.status_details, s.execution_number, s.queued_at,
               s.started_at, s.last_updated_at, s.times_out_at
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.device_id = p_device_id
    )
    SELECT * FROM present
    UNION ALL
    SELECT a.device_id, a.status::text, a.status_details, a.execution_number, a.queued_at,
           a.started_at, a.last_updated_at, NULL
    FROM jobs.execution_attempts a
    WHERE a.tenant_id = p_tenant_id AND a.job_id = p_job_id AND a.device_id = p_device_id
      AND EXISTS (SELECT FROM present)
    ORDER BY execution_number DESC
    LIMIT p_limit;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'execution not found' USING ERRCODE = 'JB007';
    END IF;
END $$;

CREATE FUNCTION jobs.list_job_executions(p_tenant_id text, p_job_id text, p_status text, p_after_device_id text, p_limit integer) RETURNS TABLE(device_ids text[], statuses text[], status_details jsonb[], execution_numbers integer[], queued_ats timestamp with time zone[], started_ats timestamp with time zone[], last_updated_ats timestamp with time zone[], times_out_ats timestamp with time zone[])
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT e.*
    FROM jobs.jobs j
    CROSS JOIN LATERAL
        jobs.execution_page(p_tenant_id, p_job_id, p_status, p_after_device_id, p_limit) e
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;
END $$;

CREATE FUNCTION jobs.list_jobs(p_tenant_id text, p_statuses text[], p_before_created_at timestamp with time zone, p_before_job_id text, p_limit integer, p_offset integer, p_document_type text DEFAULT NULL::text, p_created_by text DEFAULT NULL::text, p_target_device_id text DEFAULT NULL::text, p_target_group_id text DEFAULT NULL::text, p_target_all boolean DEFAULT NULL::boolean, p_created_from timestamp with time zone DEFAULT NULL::timestamp with time zone, p_created_until timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS SETOF jobs.job_states
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    SET max_parallel_workers_per_gather TO '0'
    SET enable_sort TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
DECLARE
    -- Bounds that the index can use: below row-level security it takes no coalesce() that is
    -- left in a plan for any arguments, and it begins its walk at one bound only.
    v_from timestamptz := coalesce(p_created_from, '-infinity');
    v_until timestamptz := coalesce(p_created_until, 'infinity');
    v_before_created_at timestamptz := least(p_before_created_at, v_until);
    v_before_job_id text :=
        CASE WHEN p_before_created_at < v_until THEN p_before_job_id ELSE '' END;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_states s
    WHERE s.tenant_id = p_tenant_id
      -- What is stored rules out most of the others before their counts are looked up.
      AND (p_statuses IS NULL OR s.stored_status::text = ANY (p_statuses)
           OR s.stored_status = 'IN_PROGRESS' AND s.expires_at <= now())
      AND (p_statuses IS NULL OR s.status = ANY (p_statuses))
      AND (p_document_type IS NULL OR s.document_type = p_document_type)
      AND (p_created_by IS NULL OR s.created_by = p_created_by)
      AND (p_target_device_id IS NULL OR s.target_device_id = p_target_device_id)
      AND (p_target_group_id IS NULL OR s.target_group_id = p_target_group_id)
      AND (p_target_all IS NULL OR s.target_all = p_target_all)
      AND s.created_at >= v_from
      AND (s.created_at, s.job_id) < (v_before_created_at, v_before_job_id)
    ORDER BY s.created_at DESC, s.job_id DESC
    LIMIT p_limit OFFSET p_offset;
END $$;

CREATE FUNCTION jobs.list_pending_executions(p_tenant_id text, p_device_id text, p_limit integer) RETURNS SETOF jobs.execution_states
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    -- The stored status finds the index, the derived one leaves out dead jobs.
    RETURN QUERY
    SELECT s.*
    FROM jobs.execution_states s
    WHERE s.tenant_id = p_tenant_id AND s.device_id = p_device_id
      AND s.stored_pending
      AND s.status IN ('QUEUED', 'IN_PROGRESS')
    ORDER BY s.status = 'QUEUED', s.queued_at, s.job_id
    LIMIT p_limit;
END $$;

CREATE FUNCTION jobs.lock_job(p_tenant_id text, p_job_id text, p_wait_ms integer) RETURNS boolean
    LANGUAGE plpgsql
    SET lock_timeout TO '1s'
    AS $$
BEGIN
    IF p_wait_ms > 0 THEN
        PERFORM set_config('lock_timeout', p_wait_ms::text, true);
        PERFORM FROM jobs.job_progress p
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
        FOR UPDATE;
    ELSE
        PERFORM FROM jobs.job_progress p
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
        FOR UPDATE NOWAIT;
    END IF;
    RETURN FOUND;
END $$;

CREATE FUNCTION jobs.next_execution(p_tenant_id text, p_device_id text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
BEGIN
    -- The stored status finds the index, the derived one leaves out dead jobs.
    RETURN (
        SELECT s.job_id
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.device_id = p_device_id
          AND s.stored_pending AND s.status IN ('QUEUED', 'IN_PROGRESS')
        ORDER BY s.status = 'QUEUED', s.queued_at, s.job_id
        LIMIT 1
    );
END $$;

CREATE FUNCTION jobs.pending_fingerprints(p_tenant_id text, p_device_ids text[]) RETURNS TABLE(device_id text, fingerprint text)
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT d.device_id, p.fingerprint
    FROM unnest(p_device_ids) AS d (device_id)
    CROSS JOIN LATERAL (
        SELECT coalesce(string_agg(e.job_id || ' ' || e.version, ',' ORDER BY e.job_id), '')
            AS fingerprint
        FROM (
            SELECT s.job_id, s.version
            FROM jobs.execution_states s
            WHERE s.tenant_id = p_tenant_id AND s.device_id = d.device_id
              AND s.stored_pending AND s.status IN ('QUEUED', 'IN_PROGRESS')
            ORDER BY s.status = 'QUEUED', s.queued_at, s.job_id
            LIMIT 101
        ) e
    ) p;
END $$;

CREATE FUNCTION jobs.purge_job(p_tenant_id text, p_job_id text, p_after_device_id text, p_limit integer, p_wait_ms integer) RETURNS text
    LANGUAGE plpgsql
    SET lock_timeout TO '1s'
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
DECLARE
    v_last text;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF NOT jobs.lock_job(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN NULL;
    END IF;

    PERFORM FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    SELECT e.device_id INTO v_last
    FROM jobs.job_executions e
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id > p_after_device_id
    ORDER BY e.device_id
    LIMIT 1 OFFSET p_limit - 1;

    DELETE FROM jobs.execution_attempts a
    WHERE a.tenant_id = p_tenant_id AND a.job_id = p_job_id AND a.device_id > p_after_device_id
      AND (v_last IS NULL OR a.device_id <= v_last);
    DELETE FROM jobs.job_executions e
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id > p_after_device_id
      AND (v_last IS NULL OR e.device_id <= v_last);

    IF v_last IS NOT NULL THEN
        RETURN v_last;
    END IF;

    DELETE FROM jobs.job_progress p WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;
    DELETE FROM jobs.jobs j WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    RETURN NULL;
END $$;

CREATE FUNCTION jobs.retry_executions(p_tenant_id text, p_job_id text, p_statuses text[], p_expires_in_hours integer, p_never_expires boolean, p_max_active_jobs integer) RETURNS TABLE(retried_count integer, expires_at timestamp with time zone)
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
DECLARE
    v_job jobs.jobs;
    v_counts jobs.job_progress;
    v_now timestamptz;
    v_status jobs.job_status;
    v_expired boolean;
    v_expires_at timestamptz;
    v_stored jobs.execution_status[] := p_statuses::jobs.execution_status[];
    v_retried integer;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    SELECT p.* INTO v_counts
    FROM jobs.job_progress p
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id
    FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;

    v_now := clock_timestamp();
    SELECT j.* INTO v_job
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;

    v_status := jobs.job_status_at(v_job.status, v_job.expires_at, v_counts.in_progress, v_now);
    v_expired := coalesce(v_job.expires_at <= v_now, false);
    v_expires_at := CASE
        WHEN p_never_expires THEN NULL
        WHEN p_expires_in_hours IS NULL THEN v_job.expires_at
        ELSE v_now + make_interval(hours => p_expires_in_hours)
    END;
    IF v_status = 'CANCELED' OR v_expires_at <= v_now THEN
        RAISE EXCEPTION 'job can not be retried' USING ERRCODE = 'JB011', DETAIL = v_status;
    END IF;

    -- The expiry has made those TIMED_OUT that are stored as QUEUED. The counts say how many
    -- there are, so that a retry of none reads no executions.
    IF v_expired AND 'TIMED_OUT' = ANY (v_stored) THEN
        v_stored := v_stored || 'QUEUED'::jobs.execution_status;
    END IF;
    v_retried := CASE WHEN 'FAILED' = ANY (v_stored) THEN v_counts.failed ELSE 0 END
        + CASE WHEN 'TIMED_OUT' = ANY (v_stored) THEN v_counts.timed_out ELSE 0 END
        + CASE WHEN 'REJECTED' = ANY (v_stored) THEN v_counts.rejected ELSE 0 END
        + CASE WHEN 'QUEUED' = ANY (v_stored) THEN v_counts.queued ELSE 0 END;
    IF v_retried = 0 THEN
        RETURN QUERY SELECT 0, v_job.expires_at;
        RETURN;
    END IF;

    IF v_status <> 'IN_PROGRESS' THEN
        PERFORM jobs.admit_active_job(p_tenant_id, p_job_id, p_max_active_jobs);
    END IF;

    -- With another expiry they would come to life, so what this one made of them is written
    -- down: as history of those that are queued again, in place for the others.
    INSERT INTO jobs.execution_attempts
        (tenant_id, job_id, device_id, execution_number, status, queued_at, started_at,
         last_updated_at, status_details)
    SELECT e.tenant_id, e.job_id, e.device_id, e.execution_number,
           CASE WHEN e.status = 'QUEUED' THEN 'TIMED_OUT' ELSE e.status END,
           e.queued_at, e.started_at,
           CASE WHEN e.status = 'QUEUED' THEN v_job.expires_at ELSE e.last_updated_at END,
           CASE WHEN e.status = 'QUEUED' THEN jobs.execution_end_details('TIMED_OUT', NULL)
                ELSE e.status_details END
    FROM jobs.job_executions e
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.status = ANY (v_stored);

    IF v_expired AND NOT 'QUEUED' = ANY (v_stored) THEN
        UPDATE jobs.job_executions e
        SET status = 'TIMED_OUT', last_updated_at = v_job.expires_at,
            status_details = jobs.execution_end_details('TIMED_OUT', NULL)
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.status = 'QUEUED';
        v_counts.timed_out := v_counts.timed_out + v_counts.queued;
        v_counts.queued := 0;
    END IF;

    UPDATE jobs.job_executions e
    SET status = 'QUEUED', execution_number = e.execution_number + 1, version = e.version + 1,
        queued_at = v_now, started_at = NULL, times_out_at = NULL, last_updated_at = v_now,
        status_details = NULL, canceled_by_operator = false
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.status = ANY (v_stored);

    UPDATE jobs.job_progress p
    SET queued = v_retried
            + CASE WHEN 'QUEUED' = ANY (v_stored) THEN 0 ELSE v_counts.queued END,
        failed = CASE WHEN 'FAILED' = ANY (v_stored) THEN 0 ELSE v_counts.failed END,
        timed_out = CASE WHEN 'TIMED_OUT' = ANY (v_stored) THEN 0 ELSE v_counts.timed_out END,
        rejected = CASE WHEN 'REJECTED' = ANY (v_stored) THEN 0 ELSE v_counts.rejected END
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

    UPDATE jobs.jobs j
    SET status = 'IN_PROGRESS', completed_at = NULL, expires_at = v_expires_at,
        finalized = false,
        updated_at = CASE WHEN v_status = 'IN_PROGRESS' THEN j.updated_at ELSE v_now END
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;

    RETURN QUERY SELECT v_retried, v_expires_at;
END $$;

CREATE FUNCTION jobs.time_out_executions(p_tenant_id text, p_job_id text, p_device_ids text[], p_wait_ms integer) RETURNS integer
    LANGUAGE plpgsql
    SET lock_timeout TO '1s'
    AS $$
DECLARE
    v_count integer;
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF NOT jobs.lock_job(p_tenant_id, p_job_id, p_wait_ms) THEN
        RETURN 0;
    END IF;
    v_now := clock_timestamp();

    -- A forced cancel has ended them already, and so has a deletion.
    PERFORM FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
      AND NOT j.force_canceled AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;

    UPDATE jobs.job_executions e
    SET status = 'TIMED_OUT', status_details = '{"reason": "in progress for too long"}',
        times_out_at = NULL, version = e.version + 1, last_updated_at = v_now
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
      AND e.device_id = ANY (p_device_ids)
      AND e.status = 'IN_PROGRESS' AND e.times_out_at <= v_now;
    GET DIAGNOSTICS v_count = ROW_COUNT;

    IF v_count > 0 THEN
        UPDATE jobs.job_progress p
        SET in_progress = p.in_progress - v_count, timed_out = p.timed_out + v_count
        WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

        PERFORM jobs.complete_jobs(p_tenant_id, ARRAY[p_job_id], v_now);
    END IF;
    RETURN v_count;
END $$;

CREATE FUNCTION jobs.update_executions(p_tenant_id text, p_wait_ms integer, p_job_ids text[], p_next boolean[], p_device_ids text[], p_statuses text[], p_status_details text[], p_execution_numbers integer[], p_expected_versions integer[], p_extend_timeout_minutes integer[], p_with_documents boolean[]) RETURNS TABLE(outcome text, met_status text, job_id text, device_id text, status text, status_details jsonb, execution_number integer, queued_at timestamp with time zone, started_at timestamp with time zone, last_updated_at timestamp with time zone, version integer, document_type text, document_params jsonb, expires_at timestamp with time zone, times_out_at timestamp with time zone)
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
DECLARE
    v_job_ids text[] := p_job_ids;
    v_locked text[];
    v_outcomes text[];
    v_met_statuses text[];
    v_changed_jobs text[];
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF true = ANY (p_next) THEN
        SELECT array_agg(
            CASE WHEN u.next AND u.job_id IS NULL
                 THEN jobs.next_execution(p_tenant_id, u.device_id) ELSE u.job_id END
            ORDER BY u.n
        )
        INTO v_job_ids
        FROM unnest(p_job_ids, p_next, p_device_ids) WITH ORDINALITY
            AS u (job_id, next, device_id, n);
    END IF;

    IF p_wait_ms > 0 THEN
        PERFORM set_config('lock_timeout', p_wait_ms::text, true);
        SELECT coalesce(array_agg(l.job_id), '{}') INTO v_locked
        FROM (
            SELECT p.job_id
            FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = ANY (v_job_ids)
            ORDER BY p.job_id
            FOR UPDATE
        ) l;
    ELSE
        SELECT coalesce(array_agg(l.job_id), '{}') INTO v_locked
        FROM (
            SELECT p.job_id
            FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = ANY (v_job_ids)
            ORDER BY p.job_id
            FOR UPDATE SKIP LOCKED
        ) l;
    END IF;
    v_now := clock_timestamp();

    WITH given AS (
        SELECT u.n, u.job_id, u.next, u.device_id, u.status::jobs.execution_status AS status,
               u.status_details::jsonb AS status_details, u.execution_number, u.expected_version,
               make_interval(mins => u.extend_timeout_minutes) AS extension
        FROM unnest(v_job_ids, p_next, p_device_ids, p_statuses, p_status_details,
                    p_execution_numbers, p_expected_versions, p_extend_timeout_minutes)
            WITH ORDINALITY
            AS u (job_id, next, device_id, status, status_details, execution_number,
                  expected_version, extend_timeout_minutes, n)
    ), met AS (
        SELECT u.*, j.job_id IS NOT NULL AND j.job_id <> ALL (v_locked) AS busy,
               e.ctid AS place, e.status AS stored_status, a.status AS met_status,
               make_interval(mins => j.in_progress_timeout_minutes) AS timeout,
               jobs.update_outcome(
                   a.status,
                   e.status_details, e.execution_number, e.version,
                   e.canceled_by_operator OR a.status <> e.status,
                   u.status, u.status_details, u.execution_number, u.expected_version
               ) AS outcome
        FROM given u
        LEFT JOIN LATERAL (
            SELECT j.*
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = u.job_id AND j.deleted_at IS NULL
            OFFSET 0
        ) j ON true
        LEFT JOIN LATERAL (
            SELECT e.ctid, e.status, e.status_details, e.execution_number, e.version, e.canceled_by_operator
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = j.job_id AND e.device_id = u.device_id
            OFFSET 0
        ) e ON true
        CROSS JOIN LATERAL (
            SELECT jobs.execution_status_at(
                e.status, j.canceled_at, j.force_canceled, j.expires_at, v_now
            ) AS status
        ) a
    ), decided AS (
        SELECT m.n, m.job_id, m.status, m.status_details, m.extension,
               m.place, m.stored_status, m.met_status, m.timeout,
               CASE
                   WHEN m.busy THEN 'BUSY'
                   WHEN m.next AND m.job_id IS NULL THEN 'NONE'
                   WHEN m.next AND (
                       m.outcome NOT IN ('APPLIED', 'REPEATED')
                       OR m.job_id IS DISTINCT FROM jobs.next_execution(p_tenant_id, m.device_id)
                   ) THEN 'AGAIN'
                   ELSE m.outcome
               END AS outcome
        FROM met m
    ), changed AS (
        UPDATE jobs.job_executions e
        SET status = coalesce(d.status, 'IN_PROGRESS'),
            status_details = coalesce(d.status_details, e.status_details),
            version = e.version + 1,
            started_at = CASE WHEN coalesce(d.status, 'IN_PROGRESS') = 'IN_PROGRESS'
                              THEN coalesce(e.started_at, v_now) ELSE e.started_at END,
            times_out_at = CASE WHEN d.status <> 'IN_PROGRESS' THEN NULL
                                WHEN d.extension IS NOT NULL THEN v_now + d.extension
                                WHEN e.status = 'QUEUED' THEN v_now + d.timeout
                                ELSE e.times_out_at END,
            last_updated_at = v_now
        FROM decided d
        WHERE d.outcome = 'APPLIED'
          AND e.tenant_id = p_tenant_id AND e.ctid = d.place
        RETURNING e.job_id, d.stored_status AS before, e.status AS after
    ), moved AS (
        SELECT c.job_id,
               count(*) FILTER (WHERE c.before = 'QUEUED') AS left_queued,
               count(*) FILTER (WHERE c.before = 'IN_PROGRESS') AS left_in_progress,
               count(*) FILTER (WHERE c.after = 'IN_PROGRESS') AS in_progress,
               count(*) FILTER (WHERE c.after = 'SUCCEEDED') AS succeeded,
               count(*) FILTER (WHERE c.after = 'FAILED') AS failed,
               count(*) FILTER (WHERE c.after = 'REJECTED') AS rejected
        FROM changed c
        GROUP BY c.job_id
    ), counted AS (
        UPDATE jobs.job_progress p
        SET queued = p.queued - m.left_queued,
            in_progress = p.in_progress - m.left_in_progress + m.in_progress,
            succeeded = p.succeeded + m.succeeded,
            failed = p.failed + m.failed,
            rejected = p.rejected + m.rejected
        FROM moved m
        WHERE p.tenant_id = p_tenant_id AND p.job_id = m.job_id
    )
    SELECT array_agg(d.outcome ORDER BY d.n), array_agg(d.met_status::text ORDER BY d.n),
           array_agg(DISTINCT d.job_id) FILTER (WHERE d.outcome = 'APPLIED')
    INTO v_outcomes, v_met_statuses, v_changed_jobs
    FROM decided d;

    PERFORM jobs.complete_jobs(p_tenant_id, v_changed_jobs, v_now);

    RETURN QUERY
    SELECT v_outcomes[u.n], v_met_statuses[u.n], u.job_id, s.device_id, s.status,
           s.status_details, s.execution_number, s.queued_at, s.started_at, s.last_updated_at,
           s.version, s.document_type,
           CASE WHEN u.with_document AND v_outcomes[u.n] NOT IN ('BUSY', 'AGAIN')
                THEN s.document_params END,
           s.expires_at, s.times_out_at
    FROM unnest(v_job_ids, p_device_ids, p_with_documents) WITH ORDINALITY
        AS u (job_id, device_id, with_document, n)
    LEFT JOIN LATERAL (
        SELECT s.*
        FROM jobs.execution_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = u.job_id AND s.device_id = u.device_id
        OFFSET 0
    ) s ON true
    ORDER BY u.n;
END $$;

CREATE FUNCTION jobs.update_outcome(present jobs.execution_status, present_details jsonb, present_number integer, present_version integer, ended_by_operator boolean, reported jobs.execution_status, reported_details jsonb, expected_number integer, expected_version integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN (present IS NULL) THEN 'EXECUTION_NOT_FOUND'::text WHEN ((reported IS NULL) AND (present = 'IN_PROGRESS'::jobs.execution_status)) THEN 'REPEATED'::text WHEN (expected_number <> present_number) THEN 'EXECUTION_CHANGED'::text WHEN ((present = reported) AND (present <> ALL (ARRAY['QUEUED'::jobs.execution_status, 'IN_PROGRESS'::jobs.execution_status])) AND (NOT ended_by_operator) AND COALESCE((reported_details = present_details), (reported_details IS NULL))) THEN 'REPEATED'::text WHEN (expected_version <> present_version) THEN 'EXECUTION_CHANGED'::text WHEN (present <> ALL (ARRAY['QUEUED'::jobs.execution_status, 'IN_PROGRESS'::jobs.execution_status])) THEN 'EXECUTION_FINISHED'::text ELSE 'APPLIED'::text END;

CREATE TABLE jobs.execution_attempts (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    device_id text NOT NULL COLLATE pg_catalog."C",
    execution_number integer NOT NULL,
    status jobs.execution_status NOT NULL,
    queued_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    last_updated_at timestamp with time zone NOT NULL,
    status_details jsonb
);

CREATE TABLE jobs.schema_code (
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE jobs.schema_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE public.device_group_members (
    tenant_id text NOT NULL,
    group_id text NOT NULL,
    device_id text NOT NULL
);

CREATE TABLE public.device_state (
    tenant_id text NOT NULL,
    device_id text NOT NULL
);

ALTER TABLE ONLY jobs.execution_attempts
    ADD CONSTRAINT execution_attempts_pkey PRIMARY KEY (tenant_id, job_id, device_id, execution_number);

ALTER TABLE ONLY jobs.job_executions
    ADD CONSTRAINT job_executions_pkey PRIMARY KEY (tenant_id, job_id, device_id);

ALTER TABLE ONLY jobs.job_progress
    ADD CONSTRAINT job_progress_pkey PRIMARY KEY (tenant_id, job_id);

ALTER TABLE ONLY jobs.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (tenant_id, job_id);

ALTER TABLE ONLY jobs.schema_code
    ADD CONSTRAINT schema_code_pkey PRIMARY KEY (checksum);

ALTER TABLE ONLY jobs.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.device_group_members
    ADD CONSTRAINT device_group_members_pkey PRIMARY KEY (tenant_id, group_id, device_id);

ALTER TABLE ONLY public.device_state
    ADD CONSTRAINT device_state_pkey PRIMARY KEY (tenant_id, device_id);

CREATE INDEX job_executions_by_device ON jobs.job_executions USING btree (tenant_id, device_id, queued_at DESC, job_id DESC);

CREATE INDEX job_executions_pending ON jobs.job_executions USING btree (tenant_id, device_id, queued_at, job_id) WHERE (status = ANY (ARRAY['QUEUED'::jobs.execution_status, 'IN_PROGRESS'::jobs.execution_status]));

CREATE INDEX job_executions_timing_out ON jobs.job_executions USING btree (times_out_at) WHERE ((status = 'IN_PROGRESS'::jobs.execution_status) AND (times_out_at IS NOT NULL));

CREATE INDEX jobs_deleted ON jobs.jobs USING btree (tenant_id, job_id) WHERE (deleted_at IS NOT NULL);

CREATE INDEX jobs_in_progress ON jobs.jobs USING btree (tenant_id, expires_at) WHERE ((status = 'IN_PROGRESS'::jobs.job_status) AND (deleted_at IS NULL));

CREATE INDEX jobs_newest_first ON jobs.jobs USING btree (tenant_id, created_at DESC, job_id DESC);

CREATE INDEX jobs_over ON jobs.jobs USING btree (updated_at) WHERE ((status <> 'IN_PROGRESS'::jobs.job_status) AND (deleted_at IS NULL));

CREATE INDEX jobs_unfinalized ON jobs.jobs USING btree (COALESCE(canceled_at, expires_at)) WHERE ((NOT finalized) AND (deleted_at IS NULL) AND (COALESCE(canceled_at, expires_at) IS NOT NULL));

ALTER TABLE jobs.execution_attempts ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.job_executions ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.job_progress ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.jobs ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON jobs.execution_attempts USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.job_executions USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.job_progress USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.jobs USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

ALTER TABLE public.device_group_members ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.device_state ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON public.device_group_members USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON public.device_state USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));
