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
    paused_at        timestamptz,  -- NULL: not paused. A paused job is stored as IN_PROGRESS
    paused_by        text,         -- NULL: unknown
    pause_reason     text,
    revision         integer NOT NULL DEFAULT 1,  -- of the settings of the job; its etag
    -- The rollout and the failure_criteria of CreateJob as JSON, for repeated requests. UpdateJob
    -- does not change it. NULL: neither.
    rollout_request      jsonb,
    has_failure_criteria boolean NOT NULL DEFAULT false,
    -- The in_progress_timeout_minutes of CreateJob, 0 if it was unset. Stored by the first UpdateJob that
    -- changes the timeout; NULL until then.
    requested_timeout_minutes integer,
    max_in_progress  integer,      -- NULL: no limit
    -- The next five are NULL without a rollout. released_at.sql computes from them how many
    -- executions are released: those with a rank up to that number.
    open_stage       smallint,     -- the first stage is 0
    release_end      integer,      -- the last rank of the open stage
    release_base     integer,      -- the number released at release_since
    release_rate     integer,      -- per minute; NULL: all up to release_end at once
    release_since    timestamptz,
    -- The time at which open_due_stage must check the job; NULL: never.
    stage_due_at     timestamptz,
    -- The next stage opens as soon as the open stage is approved.
    awaiting_approval boolean NOT NULL DEFAULT false,
    pause_cause      text,         -- of Pause.Cause; NULL: OPERATOR
    trip             jsonb,        -- the last one, as JSON of Trip
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
        CHECK (canceled_at IS NOT NULL OR NOT force_canceled),
    CONSTRAINT jobs_pause_check
        CHECK ((paused_at IS NULL) = (pause_reason IS NULL)
               AND (paused_at IS NOT NULL OR paused_by IS NULL))
);

-- For list_jobs: one index per filter, each in the order of the list for each status. The status is
-- an expression of IS NULL tests (0: in progress, 1: completed, 2: canceled), because row-level
-- security does not allow a condition on an enum to use an index.
--
-- The predicates also serve to name the index: only a query that repeats a predicate can use the
-- index, so the planner cannot choose one of them to look up a job by its key.
CREATE INDEX jobs_newest_first
    ON jobs.jobs (tenant_id,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE created_at > '-infinity' AND deleted_at IS NULL;
CREATE INDEX jobs_newest_first_by_document_type
    ON jobs.jobs (tenant_id, document_type,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE document_type IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX jobs_newest_first_by_created_by
    ON jobs.jobs (tenant_id, created_by,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE created_by IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX jobs_newest_first_by_target_device
    ON jobs.jobs (tenant_id, target_device_id,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE target_device_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX jobs_newest_first_by_target_group
    ON jobs.jobs (tenant_id, target_group_id,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE target_group_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX jobs_newest_first_of_target_all
    ON jobs.jobs (tenant_id,
                  (CASE WHEN completed_at IS NOT NULL THEN 1
                        WHEN canceled_at IS NOT NULL THEN 2 ELSE 0 END),
                  created_at DESC, job_id DESC)
    WHERE target_all AND deleted_at IS NULL;

-- For list_jobs: jobs that wait for an approval. Jobs that are finished leave it.
CREATE INDEX jobs_awaiting_approval
    ON jobs.jobs (tenant_id, created_at DESC, job_id DESC)
    WHERE awaiting_approval AND status = 'IN_PROGRESS' AND deleted_at IS NULL;

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
CREATE INDEX jobs_by_deleted_at ON jobs.jobs (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX jobs_by_stage_due_at ON jobs.jobs (stage_due_at)
    WHERE stage_due_at IS NOT NULL AND paused_at IS NULL AND status = 'IN_PROGRESS'
      AND deleted_at IS NULL;
-- A job leaves the first of these when it is resumed, approved or finished.
CREATE INDEX jobs_waiting_by_pause_cause ON jobs.jobs (pause_cause)
    WHERE (awaiting_approval OR pause_cause IS NOT NULL) AND status = 'IN_PROGRESS'
      AND deleted_at IS NULL;
CREATE INDEX jobs_tripped_by_canceled_at ON jobs.jobs (canceled_at)
    WHERE trip IS NOT NULL AND status = 'CANCELED' AND deleted_at IS NULL;

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
    -- Not NULL if the device failed: it is FAILED, REJECTED by the device, or TIMED_OUT while
    -- IN_PROGRESS. '' if the device named no code.
    failure_code     text COLLATE "C",
    -- The place in the rollout of the job; both NULL without one. Ranks are 1, 2, 3 … in the order of
    -- release.
    rank             integer,
    stage            smallint,
    PRIMARY KEY (tenant_id, job_id, device_id)
);

-- Row-level security allows only leakproof operators as index conditions. Those of enums are not
-- leakproof, so a status is an expression of IS NULL tests here, or in the predicate of the index.

-- For a device's queue: the execution that is IN_PROGRESS first, then those that are QUEUED, the
-- oldest first. started_at is NULL exactly if a pending execution is QUEUED. Executions of canceled
-- and expired jobs stay in the index until finalize_executions updates their rows.
CREATE INDEX job_executions_queue
    ON jobs.job_executions (tenant_id, device_id, (started_at IS NULL), queued_at, job_id)
    WHERE status IN ('QUEUED', 'IN_PROGRESS');

-- For list_device_executions. The predicate is always true. Only a query that repeats it can use
-- the index, so the planner cannot choose it to look up an execution by its key.
CREATE INDEX job_executions_newest_first
    ON jobs.job_executions (tenant_id, device_id, queued_at DESC, job_id DESC)
    WHERE queued_at > '-infinity';

-- For the executions of a job that did not succeed. Creating a job adds nothing to these indexes.
CREATE INDEX job_executions_failed
    ON jobs.job_executions (tenant_id, job_id, device_id) WHERE status = 'FAILED';
CREATE INDEX job_executions_timed_out
    ON jobs.job_executions (tenant_id, job_id, device_id) WHERE status = 'TIMED_OUT';
CREATE INDEX job_executions_rejected
    ON jobs.job_executions (tenant_id, job_id, device_id) WHERE status = 'REJECTED';

-- For the pages of a job's executions with one failure code.
CREATE INDEX job_executions_by_failure_code
    ON jobs.job_executions (tenant_id, job_id, failure_code, device_id)
    WHERE failure_code IS NOT NULL;

-- For held_executions.sql: the executions that an operator canceled before they were released.
CREATE INDEX job_executions_finished_unstarted_by_rank
    ON jobs.job_executions (tenant_id, job_id, rank)
    WHERE rank IS NOT NULL AND started_at IS NULL AND status IN ('TIMED_OUT', 'REJECTED');

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
    failure_code     text COLLATE "C",
    PRIMARY KEY (tenant_id, job_id, device_id, execution_number)
);

-- The number of executions of a job by status and failure_code, for each pair that has occurred.
-- At most 100 pairs of a job have a row, so that devices can't create any number of rows. Others
-- are counted under the code '*', which no device can send. Written under the job lock.
CREATE TABLE jobs.job_failures (
    tenant_id    text COLLATE "C" NOT NULL,
    job_id       text COLLATE "C" NOT NULL,
    status       jobs.execution_status NOT NULL,
    failure_code text COLLATE "C" NOT NULL,
    executions   integer NOT NULL CHECK (executions >= 0),
    PRIMARY KEY (tenant_id, job_id, status, failure_code)
) WITH (fillfactor = 50);

-- One row per stage: its settings, its state, and the exact number of its executions in each stored
-- status. Written under the job lock.
CREATE TABLE jobs.job_stages (
    tenant_id    text COLLATE "C" NOT NULL,
    job_id       text COLLATE "C" NOT NULL,
    stage        smallint NOT NULL,    -- the first is 0
    display_name text NOT NULL,
    -- The size as requested. All NULL: the remainder.
    device_count integer,
    percent      integer,
    group_id     text COLLATE "C",
    -- The ranks of the stage. An empty stage has last_rank = first_rank - 1.
    first_rank   integer NOT NULL,
    last_rank    integer NOT NULL,
    releases_per_minute   integer,     -- NULL: the whole stage at once
    -- The gate: what opens the next stage.
    min_succeeded_percent integer,     -- NULL: all executions of the stage are finished
    bake_seconds          integer NOT NULL DEFAULT 0,
    advance_after_seconds integer,     -- NULL: never
    require_approval      boolean NOT NULL DEFAULT false,
    allow_self_approval   boolean NOT NULL DEFAULT false,
    opened_at        timestamptz,      -- NULL: pending
    -- The times from which the gate measures advance_after_seconds and bake_seconds: opened_at, and the
    -- time at which the gate was met. ResumeJob adds the length of the pause to both.
    active_since     timestamptz,
    gate_met_since   timestamptz,      -- NULL: not met
    -- The job was resumed after the stage had finished, so a gate that is not met does not pause it
    -- again: the stage waits for advance_after_seconds.
    gate_failure_accepted boolean NOT NULL DEFAULT false,
    approved_at      timestamptz,
    approved_by      text,
    approval_comment text,
    queued      integer NOT NULL CHECK (queued >= 0),
    in_progress integer NOT NULL DEFAULT 0 CHECK (in_progress >= 0),
    succeeded   integer NOT NULL DEFAULT 0 CHECK (succeeded >= 0),
    failed      integer NOT NULL DEFAULT 0 CHECK (failed >= 0),
    timed_out   integer NOT NULL DEFAULT 0 CHECK (timed_out >= 0),
    rejected    integer NOT NULL DEFAULT 0 CHECK (rejected >= 0),
    failures    integer NOT NULL DEFAULT 0 CHECK (failures >= 0),  -- with a failure_code
    PRIMARY KEY (tenant_id, job_id, stage)
) WITH (fillfactor = 50);

-- One row per failure criterion, in the order of the request.
CREATE TABLE jobs.job_failure_criteria (
    tenant_id     text COLLATE "C" NOT NULL,
    job_id        text COLLATE "C" NOT NULL,
    criterion     smallint NOT NULL,   -- the first is 0
    statuses      jobs.execution_status[] NOT NULL,
    failure_codes text[] COLLATE "C" NOT NULL,  -- empty: any
    percent       integer,             -- one of percent and count is set
    count         integer,
    basis         text NOT NULL,       -- FINISHED, RELEASED or TARGETED; for percent
    min_finished  integer NOT NULL,    -- for percent
    scope         text NOT NULL,       -- JOB or STAGE
    action        text NOT NULL,       -- PAUSE, CANCEL or FORCE_CANCEL
    -- The criterion counts the executions that finish after this time: that of the last ResumeJob, or
    -- of the UpdateJob that added the criterion.
    counts_since  timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (tenant_id, job_id, criterion)
);

-- The counts of a failure criterion, for the job or for each stage. No row: 0. Written under the job
-- lock.
CREATE TABLE jobs.job_criterion_counts (
    tenant_id  text COLLATE "C" NOT NULL,
    job_id     text COLLATE "C" NOT NULL,
    criterion  smallint NOT NULL,
    stage      smallint NOT NULL,      -- -1: the scope is JOB
    failures   integer NOT NULL DEFAULT 0 CHECK (failures >= 0),  -- that match, since counts_since
    -- The executions that devices had finished before counts_since: SUCCEEDED, or failed. Excludes
    -- those that were retried since.
    finished_before integer NOT NULL DEFAULT 0 CHECK (finished_before >= 0),
    PRIMARY KEY (tenant_id, job_id, criterion, stage)
) WITH (fillfactor = 50);

ALTER TABLE jobs.jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_progress ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_executions ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.execution_attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_failures ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_stages ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_failure_criteria ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_criterion_counts ENABLE ROW LEVEL SECURITY;

-- nullif: a setting that was local to an earlier transaction reads '', not NULL.
CREATE POLICY tenant_isolation ON jobs.jobs
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_progress
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_executions
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.execution_attempts
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_failures
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_stages
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_failure_criteria
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_criterion_counts
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
