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

CREATE FUNCTION jobs.cancel_job(p_tenant_id text, p_job_id text, p_reason text) RETURNS void
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
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_status <> 'IN_PROGRESS' THEN
        RAISE EXCEPTION 'job is over' USING ERRCODE = 'JB006', DETAIL = v_status;
    END IF;

    UPDATE jobs.jobs
    SET status = 'CANCELED', canceled_at = v_now, cancel_reason = p_reason, updated_at = v_now
    WHERE tenant_id = p_tenant_id AND job_id = p_job_id;
END $$;

CREATE FUNCTION jobs.create_job(p_tenant_id text, p_job_id text, p_document_type text, p_document_params jsonb, p_target_device_id text, p_target_group_id text, p_target_all boolean, p_expires_in_hours integer, p_created_by text) RETURNS TABLE(execution_count integer, expires_at timestamp with time zone)
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
         target_all, expires_at, created_by, created_at, updated_at)
    VALUES
        (p_tenant_id, p_job_id, p_document_type, p_document_params, p_target_device_id,
         p_target_group_id, p_target_all, v_now + make_interval(hours => p_expires_in_hours),
         p_created_by, v_now, v_now)
    ON CONFLICT (tenant_id, job_id) DO NOTHING;

    IF NOT FOUND THEN
        RETURN QUERY
        SELECT s.total_executions, s.expires_at
        FROM jobs.job_states s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
          AND s.document_type = p_document_type
          AND s.document_params = p_document_params
          AND s.target_device_id IS NOT DISTINCT FROM p_target_device_id
          AND s.target_group_id IS NOT DISTINCT FROM p_target_group_id
          AND s.target_all = p_target_all
          AND s.expires_at IS NOT DISTINCT FROM
              s.created_at + make_interval(hours => p_expires_in_hours);
        IF NOT FOUND THEN
            RAISE EXCEPTION 'job_id taken' USING ERRCODE = 'JB004';
        END IF;
        RETURN;
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

    INSERT INTO jobs.job_progress (tenant_id, job_id, queued)
    VALUES (p_tenant_id, p_job_id, execution_count);

    expires_at := v_now + make_interval(hours => p_expires_in_hours);
    RETURN NEXT;
END $$;

CREATE FUNCTION jobs.queued_status_at(canceled_at timestamp with time zone, expires_at timestamp with time zone, at timestamp with time zone) RETURNS jobs.execution_status
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN (expires_at <= COALESCE(canceled_at, at)) THEN 'TIMED_OUT'::jobs.execution_status WHEN (canceled_at IS NOT NULL) THEN 'REJECTED'::jobs.execution_status ELSE 'QUEUED'::jobs.execution_status END;

CREATE TABLE jobs.job_executions (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    device_id text NOT NULL COLLATE pg_catalog."C",
    status jobs.execution_status DEFAULT 'QUEUED'::jobs.execution_status NOT NULL,
    execution_number integer DEFAULT 1 NOT NULL,
    queued_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    last_updated_at timestamp with time zone NOT NULL,
    status_details jsonb
);

CREATE TABLE jobs.jobs (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    document_type text NOT NULL,
    document_params jsonb NOT NULL,
    target_device_id text,
    target_group_id text,
    target_all boolean NOT NULL,
    status jobs.job_status DEFAULT 'IN_PROGRESS'::jobs.job_status NOT NULL,
    expires_at timestamp with time zone,
    canceled_at timestamp with time zone,
    cancel_reason text,
    created_by text,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT jobs_check CHECK (((num_nonnulls(target_device_id, target_group_id) + (target_all)::integer) = 1)),
    CONSTRAINT jobs_check1 CHECK (((status = 'CANCELED'::jobs.job_status) = (canceled_at IS NOT NULL))),
    CONSTRAINT jobs_check2 CHECK (((canceled_at IS NULL) = (cancel_reason IS NULL)))
);

CREATE VIEW jobs.execution_states WITH (security_invoker='true') AS
 SELECT e.tenant_id,
    e.job_id,
    e.device_id,
    (d.status)::text AS status,
        CASE
            WHEN (d.status = e.status) THEN e.status_details
            WHEN (d.status = 'REJECTED'::jobs.execution_status) THEN jsonb_build_object('reason', j.cancel_reason)
            ELSE '{"reason": "job expired"}'::jsonb
        END AS status_details,
    e.execution_number,
    e.queued_at,
    e.started_at,
        CASE
            WHEN (d.status = e.status) THEN e.last_updated_at
            WHEN (d.status = 'REJECTED'::jobs.execution_status) THEN j.canceled_at
            ELSE j.expires_at
        END AS last_updated_at
   FROM ((jobs.job_executions e
     JOIN jobs.jobs j ON (((j.tenant_id = e.tenant_id) AND (j.job_id = e.job_id))))
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (e.status = 'QUEUED'::jobs.execution_status) THEN jobs.queued_status_at(j.canceled_at, j.expires_at, now())
                    ELSE e.status
                END AS status) d);

CREATE FUNCTION jobs.execution_page(p_tenant_id text, p_job_id text, p_status text, p_after_device_id text, p_limit integer) RETURNS TABLE(device_ids text[], statuses text[], status_details jsonb[], execution_numbers integer[], queued_ats timestamp with time zone[], started_ats timestamp with time zone[], last_updated_ats timestamp with time zone[])
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 SELECT array_agg(e.device_id) AS array_agg,
     array_agg(e.status) AS array_agg,
     array_agg(e.status_details) AS array_agg,
     array_agg(e.execution_number) AS array_agg,
     array_agg(e.queued_at) AS array_agg,
     array_agg(e.started_at) AS array_agg,
     array_agg(e.last_updated_at) AS array_agg
    FROM ( SELECT s.tenant_id,
             s.job_id,
             s.device_id,
             s.status,
             s.status_details,
             s.execution_number,
             s.queued_at,
             s.started_at,
             s.last_updated_at
            FROM jobs.execution_states s
           WHERE ((s.tenant_id = execution_page.p_tenant_id) AND (s.job_id = execution_page.p_job_id) AND (s.device_id > execution_page.p_after_device_id) AND ((execution_page.p_status IS NULL) OR (s.status = execution_page.p_status)))
           ORDER BY s.device_id
          LIMIT execution_page.p_limit) e;
END;

CREATE FUNCTION jobs.get_job(p_tenant_id text, p_job_id text, p_executions_limit integer) RETURNS TABLE(tenant_id text, job_id text, document_type text, document_params jsonb, target_device_id text, target_group_id text, target_all boolean, status text, expires_at timestamp with time zone, created_by text, created_at timestamp with time zone, updated_at timestamp with time zone, cancel_reason text, total_executions integer, queued integer, in_progress integer, succeeded integer, failed integer, timed_out integer, rejected integer, device_ids text[], statuses text[], status_details jsonb[], execution_numbers integer[], queued_ats timestamp with time zone[], started_ats timestamp with time zone[], last_updated_ats timestamp with time zone[])
    LANGUAGE plpgsql
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

CREATE FUNCTION jobs.list_job_executions(p_tenant_id text, p_job_id text, p_status text, p_after_device_id text, p_limit integer) RETURNS TABLE(device_ids text[], statuses text[], status_details jsonb[], execution_numbers integer[], queued_ats timestamp with time zone[], started_ats timestamp with time zone[], last_updated_ats timestamp with time zone[])
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT e.*
    FROM jobs.jobs j
    CROSS JOIN LATERAL
        jobs.execution_page(p_tenant_id, p_job_id, p_status, p_after_device_id, p_limit) e
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'job not found' USING ERRCODE = 'JB005';
    END IF;
END $$;

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
    p.in_progress,
    p.succeeded,
    p.failed,
    (p.timed_out +
        CASE
            WHEN (d.queued_as = 'TIMED_OUT'::jobs.execution_status) THEN p.queued
            ELSE 0
        END) AS timed_out,
    (p.rejected +
        CASE
            WHEN (d.queued_as = 'REJECTED'::jobs.execution_status) THEN p.queued
            ELSE 0
        END) AS rejected
   FROM ((jobs.jobs j
     JOIN jobs.job_progress p ON (((p.tenant_id = j.tenant_id) AND (p.job_id = j.job_id))))
     CROSS JOIN LATERAL ( SELECT jobs.job_status_at(j.status, j.expires_at, p.in_progress, now()) AS status,
            jobs.queued_status_at(j.canceled_at, j.expires_at, now()) AS queued_as) d);

CREATE FUNCTION jobs.list_jobs(p_tenant_id text, p_status text, p_before_created_at timestamp with time zone, p_before_job_id text, p_limit integer, p_offset integer) RETURNS SETOF jobs.job_states
    LANGUAGE plpgsql
    SET enable_sort TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_states s
    WHERE s.tenant_id = p_tenant_id
      AND (p_status IS NULL OR s.status = p_status)
      AND (s.created_at, s.job_id)
          < (coalesce(p_before_created_at, 'infinity'), coalesce(p_before_job_id, ''))
    ORDER BY s.created_at DESC, s.job_id DESC
    LIMIT p_limit OFFSET p_offset;
END $$;

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

CREATE INDEX jobs_newest_first ON jobs.jobs USING btree (tenant_id, created_at DESC, job_id DESC);

ALTER TABLE jobs.job_executions ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.job_progress ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.jobs ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON jobs.job_executions USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.job_progress USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.jobs USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

ALTER TABLE public.device_group_members ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.device_state ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON public.device_group_members USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON public.device_state USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));
