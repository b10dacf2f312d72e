-- Creates the tables. All of them are in the schema "jobs", except the two device tables: these
-- belong to the platform, are in "public", and are created only if they don't exist.
--
-- Every table has row-level security, and its primary key starts with tenant_id. Identifiers have
-- COLLATE "C": pages are in byte order, whatever the locale of the database.

CREATE TYPE jobs.job_status AS ENUM ('IN_PROGRESS', 'COMPLETED', 'CANCELED');

CREATE TYPE jobs.execution_status AS ENUM
    ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED');

-- One row per job. Readers use the view jobs.job_states, which derives the status.
CREATE TABLE jobs.jobs (
    tenant_id        text COLLATE "C" NOT NULL,
    job_id           text COLLATE "C" NOT NULL,
    document_type    text NOT NULL,
    document_params  jsonb NOT NULL,
    target_device_id text,
    target_group_id  text,
    target_all       boolean NOT NULL,
    in_progress_timeout_minutes integer,  -- NULL: executions do not time out
    expires_in_hours integer,      -- as requested by CreateJob; NULL: never
    expires_at       timestamptz,  -- a retry can change it
    status           jobs.job_status NOT NULL DEFAULT 'IN_PROGRESS',
    completed_at     timestamptz,
    canceled_at      timestamptz,
    cancel_reason    text,
    force_canceled   boolean NOT NULL DEFAULT false,  -- the cancel ended IN_PROGRESS ones too
    finalized        boolean NOT NULL DEFAULT false,  -- no derived status is left to write
    deleted_at       timestamptz,  -- readers no longer see the job; purge_job removes its rows
    created_by       text,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, job_id),
    CONSTRAINT jobs_one_target_check
        CHECK (num_nonnulls(target_device_id, target_group_id) + target_all::int = 1),
    CONSTRAINT jobs_completed_at_check
        CHECK ((status = 'COMPLETED') = (completed_at IS NOT NULL)),
    CONSTRAINT jobs_canceled_at_check
        CHECK ((status = 'CANCELED') = (canceled_at IS NOT NULL)),
    CONSTRAINT jobs_cancel_reason_check
        CHECK ((canceled_at IS NULL) = (cancel_reason IS NULL)),
    CONSTRAINT jobs_force_canceled_check
        CHECK (canceled_at IS NOT NULL OR NOT force_canceled)
);

-- For list_jobs.
CREATE INDEX jobs_by_created_at ON jobs.jobs (tenant_id, created_at DESC, job_id DESC);

-- For count_active_jobs. Jobs past their expiry count only if an execution is IN_PROGRESS.
CREATE INDEX jobs_in_progress_by_expires_at ON jobs.jobs (tenant_id, expires_at)
    WHERE status = 'IN_PROGRESS' AND deleted_at IS NULL;

-- For the searches in sql/maintenance, across tenants. Each index holds only rows that maintenance
-- may have to change, in the order in which they are due, so a search that finds nothing reads few
-- pages.
CREATE INDEX jobs_to_finalize ON jobs.jobs (coalesce(canceled_at, expires_at))
    WHERE NOT finalized AND deleted_at IS NULL AND coalesce(canceled_at, expires_at) IS NOT NULL;
CREATE INDEX jobs_finished_by_updated_at ON jobs.jobs (updated_at)
    WHERE status <> 'IN_PROGRESS' AND deleted_at IS NULL;
CREATE INDEX jobs_to_purge ON jobs.jobs (tenant_id, job_id) WHERE deleted_at IS NOT NULL;

-- One row per job: the exact number of its executions in each stored status. The row is also the
-- job lock. Every transaction that changes a job or its executions first locks this row (the rows
-- of several jobs in the order of job_id), then reads, then writes.
-- The fill factor leaves room for HOT updates, which write no index entries.
CREATE TABLE jobs.job_progress (
    tenant_id   text COLLATE "C" NOT NULL,
    job_id      text COLLATE "C" NOT NULL,
    queued      integer NOT NULL CHECK (queued >= 0),
    in_progress integer NOT NULL DEFAULT 0 CHECK (in_progress >= 0),
    succeeded   integer NOT NULL DEFAULT 0 CHECK (succeeded >= 0),
    failed      integer NOT NULL DEFAULT 0 CHECK (failed >= 0),
    timed_out   integer NOT NULL DEFAULT 0 CHECK (timed_out >= 0),
    rejected    integer NOT NULL DEFAULT 0 CHECK (rejected >= 0),
    PRIMARY KEY (tenant_id, job_id)
) WITH (fillfactor = 50);

-- One row per targeted device of a job. Readers use the view jobs.execution_states, which derives
-- the status. No foreign key to jobs: only functions that lock the job write here, and checking
-- the key for each row would take more than half of a large job's insert.
CREATE TABLE jobs.job_executions (
    tenant_id        text COLLATE "C" NOT NULL,
    job_id           text COLLATE "C" NOT NULL,
    device_id        text COLLATE "C" NOT NULL,
    status           jobs.execution_status NOT NULL DEFAULT 'QUEUED',
    execution_number integer NOT NULL DEFAULT 1,  -- of the current attempt
    version          integer NOT NULL DEFAULT 1,
    canceled_by_operator boolean NOT NULL DEFAULT false,  -- REJECTED by a cancel, not by the device
    queued_at        timestamptz NOT NULL,
    started_at       timestamptz,
    times_out_at     timestamptz,  -- of an execution that is IN_PROGRESS; NULL: never
    last_updated_at  timestamptz NOT NULL,
    status_details   jsonb,
    PRIMARY KEY (tenant_id, job_id, device_id)
);

-- For a device's queue. Executions of canceled and expired jobs stay in it until finalize_job
-- updates their rows.
CREATE INDEX job_executions_pending_by_device
    ON jobs.job_executions (tenant_id, device_id, queued_at, job_id)
    WHERE status IN ('QUEUED', 'IN_PROGRESS');

-- For list_device_executions.
CREATE INDEX job_executions_by_device
    ON jobs.job_executions (tenant_id, device_id, queued_at DESC, job_id DESC);

-- For sql/maintenance/timed_out_executions.sql, across tenants.
CREATE INDEX job_executions_by_times_out_at ON jobs.job_executions (times_out_at)
    WHERE status = 'IN_PROGRESS' AND times_out_at IS NOT NULL;

-- Earlier attempts, with the status that readers saw when the execution was retried.
CREATE TABLE jobs.execution_attempts (
    tenant_id        text COLLATE "C" NOT NULL,
    job_id           text COLLATE "C" NOT NULL,
    device_id        text COLLATE "C" NOT NULL,
    execution_number integer NOT NULL,
    version          integer NOT NULL,
    status           jobs.execution_status NOT NULL,
    queued_at        timestamptz NOT NULL,
    started_at       timestamptz,
    last_updated_at  timestamptz NOT NULL,
    status_details   jsonb,
    PRIMARY KEY (tenant_id, job_id, device_id, execution_number)
);

ALTER TABLE jobs.jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_progress ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_executions ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.execution_attempts ENABLE ROW LEVEL SECURITY;

-- nullif: a setting that was local to an earlier transaction reads '', not NULL.
CREATE POLICY tenant_isolation ON jobs.jobs
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_progress
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_executions
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.execution_attempts
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));

-- The device tables. Not CREATE TABLE IF NOT EXISTS: it needs the CREATE privilege even if the
-- table exists. A table of the platform stays as it is; the server checks that it isolates tenants.
DO $$
BEGIN
    IF to_regclass('public.device_state') IS NULL THEN
        CREATE TABLE public.device_state (
            tenant_id text COLLATE "C" NOT NULL,
            device_id text COLLATE "C" NOT NULL,
            PRIMARY KEY (tenant_id, device_id)
        );
        ALTER TABLE public.device_state ENABLE ROW LEVEL SECURITY;
        CREATE POLICY tenant_isolation ON public.device_state
            USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
    END IF;

    IF to_regclass('public.device_group_members') IS NULL THEN
        CREATE TABLE public.device_group_members (
            tenant_id text COLLATE "C" NOT NULL,
            group_id  text COLLATE "C" NOT NULL,
            device_id text COLLATE "C" NOT NULL,
            PRIMARY KEY (tenant_id, group_id, device_id)
        );
        ALTER TABLE public.device_group_members ENABLE ROW LEVEL SECURITY;
        CREATE POLICY tenant_isolation ON public.device_group_members
            USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
    END IF;
END $$;
