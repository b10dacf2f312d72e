-- Everything of ours lives in the schema "jobs"; the two device tables belong to the
-- platform and stay in "public", where they are created only if they are absent.
--
-- Identifiers are COLLATE "C": pages are in byte order whatever the database's locale.

-- Not CREATE TABLE IF NOT EXISTS: that asks for the right to create even where it does
-- not. A table of the platform's is left as it is; whether it isolates is checked by serve.
DO $$
BEGIN
    IF to_regclass('public.device_state') IS NULL THEN
        CREATE TABLE public.device_state (
            tenant_id text NOT NULL,
            device_id text NOT NULL,
            PRIMARY KEY (tenant_id, device_id)
        );
        ALTER TABLE public.device_state ENABLE ROW LEVEL SECURITY;
        CREATE POLICY tenant_isolation ON public.device_state
            USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
    END IF;

    IF to_regclass('public.device_group_members') IS NULL THEN
        CREATE TABLE public.device_group_members (
            tenant_id text NOT NULL,
            group_id  text NOT NULL,
            device_id text NOT NULL,
            PRIMARY KEY (tenant_id, group_id, device_id)
        );
        ALTER TABLE public.device_group_members ENABLE ROW LEVEL SECURITY;
        CREATE POLICY tenant_isolation ON public.device_group_members
            USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
    END IF;
END $$;

CREATE TYPE jobs.job_status AS ENUM ('IN_PROGRESS', 'COMPLETED', 'CANCELED');

CREATE TYPE jobs.execution_status AS ENUM
    ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED');

-- What was asked for. The status as a reader sees it is in jobs.job_states.
CREATE TABLE jobs.jobs (
    tenant_id        text COLLATE "C" NOT NULL,
    job_id           text COLLATE "C" NOT NULL,
    document_type    text NOT NULL,
    document_params  jsonb NOT NULL,
    target_device_id text,
    target_group_id  text,
    target_all       boolean NOT NULL,
    status           jobs.job_status NOT NULL DEFAULT 'IN_PROGRESS',
    expires_in_hours integer,  -- as asked for; a retry moves expires_at only
    expires_at       timestamptz,
    in_progress_timeout_minutes integer,  -- NULL: none
    completed_at     timestamptz,
    canceled_at      timestamptz,
    cancel_reason    text,
    force_canceled boolean NOT NULL DEFAULT false,
    deleted_at       timestamptz,
    -- Nothing is QUEUED any more, and the end of the job is written down; see finalize_job.
    finalized          boolean NOT NULL DEFAULT false,
    created_by       text,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, job_id),
    CHECK (num_nonnulls(target_device_id, target_group_id) + target_all::int = 1),
    CHECK ((status = 'COMPLETED') = (completed_at IS NOT NULL)),
    CHECK ((status = 'CANCELED') = (canceled_at IS NOT NULL)),
    CHECK ((canceled_at IS NULL) = (cancel_reason IS NULL)),
    CHECK (canceled_at IS NOT NULL OR NOT force_canceled)
);

CREATE INDEX jobs_newest_first ON jobs.jobs (tenant_id, created_at DESC, job_id DESC);

-- Counts the jobs in progress; those past their expiry are looked at one by one.
CREATE INDEX jobs_in_progress ON jobs.jobs (tenant_id, expires_at)
    WHERE status = 'IN_PROGRESS' AND deleted_at IS NULL;

-- What the sweeper looks for, across tenants. Each holds only rows that are still to be
-- swept, by the moment they are due, so that finding nothing is one probe.
CREATE INDEX jobs_unfinalized ON jobs.jobs (coalesce(canceled_at, expires_at))
    WHERE NOT finalized AND deleted_at IS NULL AND coalesce(canceled_at, expires_at) IS NOT NULL;
CREATE INDEX jobs_over ON jobs.jobs (updated_at)
    WHERE status <> 'IN_PROGRESS' AND deleted_at IS NULL;
CREATE INDEX jobs_deleted ON jobs.jobs (tenant_id, job_id) WHERE deleted_at IS NOT NULL;

-- One row a job: exact counts of the stored states, and the mutex of the job. Whoever
-- changes the state of a job or of its executions locks this row first (of several
-- jobs: in key order), then reads again, then writes.
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

-- One row a targeted device. The status as a reader sees it is in jobs.execution_states.
-- No foreign key: rows are made only together with their job, and checking them one at
-- a time would cost more than half of a large job's insert.
CREATE TABLE jobs.job_executions (
    tenant_id        text COLLATE "C" NOT NULL,
    job_id           text COLLATE "C" NOT NULL,
    device_id        text COLLATE "C" NOT NULL,
    status           jobs.execution_status NOT NULL DEFAULT 'QUEUED',
    execution_number integer NOT NULL DEFAULT 1,
    version          integer NOT NULL DEFAULT 1,
    canceled_by_operator         boolean NOT NULL DEFAULT false,  -- REJECTED by the operator, not the device
    queued_at        timestamptz NOT NULL,
    started_at       timestamptz,
    times_out_at     timestamptz,  -- of an IN_PROGRESS row; NULL: never
    last_updated_at  timestamptz NOT NULL,
    status_details   jsonb,
    PRIMARY KEY (tenant_id, job_id, device_id)
);

-- What a device has to do. Rows of dead jobs stay in it until they are finalized.
CREATE INDEX job_executions_pending
    ON jobs.job_executions (tenant_id, device_id, queued_at, job_id)
    WHERE status IN ('QUEUED', 'IN_PROGRESS');

-- What a device has had to do.
CREATE INDEX job_executions_by_device
    ON jobs.job_executions (tenant_id, device_id, queued_at DESC, job_id DESC);

-- What the attempts before the present one came to, as readers saw it.
CREATE TABLE jobs.execution_attempts (
    tenant_id        text COLLATE "C" NOT NULL,
    job_id           text COLLATE "C" NOT NULL,
    device_id        text COLLATE "C" NOT NULL,
    execution_number integer NOT NULL,
    status           jobs.execution_status NOT NULL,
    queued_at        timestamptz NOT NULL,
    started_at       timestamptz,
    last_updated_at  timestamptz NOT NULL,
    status_details   jsonb,
    PRIMARY KEY (tenant_id, job_id, device_id, execution_number)
);
-- For the sweeper, as above.
CREATE INDEX job_executions_timing_out ON jobs.job_executions (times_out_at)
    WHERE status = 'IN_PROGRESS' AND times_out_at IS NOT NULL;

ALTER TABLE jobs.jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_progress ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_executions ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.execution_attempts ENABLE ROW LEVEL SECURITY;

-- A setting that was local to a transaction reads '' afterwards, not NULL.
CREATE POLICY tenant_isolation ON jobs.jobs
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_progress
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_executions
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.execution_attempts
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
