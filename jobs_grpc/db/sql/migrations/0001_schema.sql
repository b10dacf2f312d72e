-- Creates the types, tables, indexes and policies. All of them are in the schema "jobs", except the two
-- device tables: these are in "public", and are created only if they don't exist. Readers use the views in
-- sql/views, which derive what is not stored, such as the status of an execution whose job was canceled.
--
-- Each primary key starts with tenant_id. Identifiers have COLLATE "C": pages are in byte order,
-- whatever the locale of the database. Row-level security allows only leakproof operators as index
-- conditions, and those of enums and jsonb are not. So in indexes, a status is an expression of IS NULL
-- tests, or in the predicate.

-- Types

CREATE TYPE jobs.job_status AS ENUM ('IN_PROGRESS', 'COMPLETED', 'CANCELED');

CREATE TYPE jobs.execution_status AS ENUM
    ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED');

-- Jobs

-- One row per job. Readers use the view job_states.
CREATE TABLE jobs.jobs (
    tenant_id        text COLLATE "C" NOT NULL,
    job_id           text COLLATE "C" NOT NULL,
    document_type    text NOT NULL,
    document_params  jsonb NOT NULL,
    -- One target: one of these three, or of the next three target columns below.
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
    has_failure_criteria boolean NOT NULL DEFAULT false,
    max_in_progress  integer,      -- NULL: no limit
    -- The next five are NULL without a rollout. released_count_at.sql computes from them how many
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
    -- The request that created the job, as JSON: a repeated request is compared with it.
    request          jsonb,
    labels           jsonb,        -- an object of texts; NULL: none
    description      text,         -- NULL: none
    target_selector  text,         -- the canonical text
    target_device_count integer,   -- of a list of devices
    target_failed_in jsonb,        -- job_id, statuses, failure_codes, selector
    start_at         timestamptz,  -- NULL: the time of creation
    -- Three numbers for each window: a bit for each day of the week (Monday: 1), the minute of the day,
    -- and the minutes that the window is open. NULL: devices can start at any time.
    start_windows    integer[],
    window_time_zone text,         -- NULL: that of each execution
    retry_policy     jsonb,        -- written by services/job_request.py; NULL: none
    priority         smallint NOT NULL DEFAULT 2,  -- of Job.Priority
    execution_events boolean NOT NULL DEFAULT false,  -- attempts that end add events
    PRIMARY KEY (tenant_id, job_id),
    CONSTRAINT jobs_one_target_check CHECK (
        num_nonnulls(
            target_device_id, target_group_id, target_selector, target_device_count, target_failed_in
        ) + target_all::int = 1
    ),
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

-- For list_jobs: one index per filter, each in the order of the list for each status (0: in progress,
-- 1: completed, 2: canceled).
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

-- For list_jobs: jobs that start in the future. Without a condition on the status, which other indexes
-- have as well, no other index looks as cheap.
CREATE INDEX jobs_by_start_at
    ON jobs.jobs (tenant_id, start_at)
    WHERE start_at IS NOT NULL AND deleted_at IS NULL;

-- For count_active_jobs. Jobs past their expiry count only if an execution is IN_PROGRESS.
CREATE INDEX jobs_in_progress_by_expires_at ON jobs.jobs (tenant_id, expires_at)
    WHERE status = 'IN_PROGRESS' AND deleted_at IS NULL;

-- For the searches in sql/functions/maintenance, across tenants. Each index holds only rows that
-- maintenance may have to change, in the order in which they are due, so a search that finds nothing
-- reads few pages.
CREATE INDEX jobs_to_finalize ON jobs.jobs (coalesce(canceled_at, expires_at))
    WHERE NOT finalized AND deleted_at IS NULL AND coalesce(canceled_at, expires_at) IS NOT NULL;
CREATE INDEX jobs_finished_by_updated_at ON jobs.jobs (updated_at)
    WHERE status <> 'IN_PROGRESS' AND deleted_at IS NULL;
CREATE INDEX jobs_by_deleted_at ON jobs.jobs (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX jobs_by_stage_due_at ON jobs.jobs (stage_due_at)
    WHERE stage_due_at IS NOT NULL AND paused_at IS NULL AND status = 'IN_PROGRESS'
      AND deleted_at IS NULL;
CREATE INDEX jobs_of_all_tenants_by_start_at ON jobs.jobs (start_at)
    WHERE start_at IS NOT NULL AND status = 'IN_PROGRESS' AND deleted_at IS NULL;
-- A job leaves the first of these when it is resumed, approved or finished.
CREATE INDEX jobs_waiting_by_pause_cause ON jobs.jobs (pause_cause)
    WHERE (awaiting_approval OR pause_cause IS NOT NULL) AND status = 'IN_PROGRESS'
      AND deleted_at IS NULL;
CREATE INDEX jobs_tripped_by_canceled_at ON jobs.jobs (canceled_at)
    WHERE trip IS NOT NULL AND status = 'CANCELED' AND deleted_at IS NULL;

-- For list_jobs: one row per label of each job that is not deleted. Written under the job lock.
CREATE TABLE jobs.job_labels (
    tenant_id  text COLLATE "C" NOT NULL,
    label      text COLLATE "C" NOT NULL,  -- key=value; a key has no "="
    created_at timestamptz NOT NULL,       -- of the job
    job_id     text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, label, created_at, job_id)
);

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
    retries     integer NOT NULL DEFAULT 0,  -- attempts that the retry policy has queued
    retried_devices integer NOT NULL DEFAULT 0,  -- executions with retries > 0
    retrying    integer NOT NULL DEFAULT 0,      -- see Job.retrying_count
    -- Those of them that have started the next attempt. A cancel or an expiry of the job ends the others.
    retrying_in_progress integer NOT NULL DEFAULT 0,
    event_count integer NOT NULL DEFAULT 0,      -- the number of the last event of the job
    has_expiry_event boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, job_id)
) WITH (fillfactor = 50);

-- For count_retrying_executions, across tenants. Only updates of jobs whose retries change are not HOT.
CREATE INDEX job_progress_by_retrying ON jobs.job_progress (retrying) WHERE retrying > 0;

-- One row per stage: its settings, its state, and the exact number of its executions in each stored
-- status. Written under the job lock.
CREATE TABLE jobs.job_stages (
    tenant_id    text COLLATE "C" NOT NULL,
    job_id       text COLLATE "C" NOT NULL,
    stage        smallint NOT NULL,    -- the first is 0
    display_name text NOT NULL,
    -- The size as requested. All NULL, with selector: the remainder.
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
    failures    integer NOT NULL DEFAULT 0 CHECK (failures >= 0),  -- executions with one: see docs/counts.md
    allow_empty boolean NOT NULL DEFAULT false,  -- a stage of a group may have no devices
    selector    text,                  -- the canonical text, for the size
    retrying    integer NOT NULL DEFAULT 0,      -- this and the next: as in job_progress
    retrying_in_progress integer NOT NULL DEFAULT 0,
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
    -- The last restart of the criterion: it counts the executions that finish after this time. Set by
    -- ResumeJob, and by the UpdateJob that added the criterion.
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
    -- The executions that had SUCCEEDED or failed at counts_since, without those that were retried
    -- since.
    finished_before integer NOT NULL DEFAULT 0 CHECK (finished_before >= 0),
    PRIMARY KEY (tenant_id, job_id, criterion, stage)
) WITH (fillfactor = 50);

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

-- Executions

-- One row per targeted device of a job. Readers use the view execution_states. No foreign key to jobs:
-- only functions that lock the job write here, and checking the key for each row would take more than
-- half of a large job's insert.
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
    end_cause        text,         -- see the function end_cause
    queue_order      smallint NOT NULL DEFAULT 0,  -- by the priority: see the function queue_order
    time_zone        text,         -- for start windows; NULL: UTC
    not_before       timestamptz,  -- of an attempt that the retry policy queued
    -- The automatic retries that the device has needed since CreateJob or the last RetryExecutions, with
    -- the one that the retry budget refused.
    retries          integer NOT NULL DEFAULT 0,
    -- The failure of the attempt before the current one, while the device counts as failed because of it:
    -- until the device ends the current attempt, or RetryExecutions takes it. NULL: none.
    failed_status    jobs.execution_status,
    failed_code      text COLLATE "C",
    failed_at        timestamptz,
    -- The bridge that started or reported for the device. '': one without a subject; NULL: none.
    reported_by      text,
    PRIMARY KEY (tenant_id, job_id, device_id)
);

-- For a device's queue: the execution that is IN_PROGRESS first, then those that are QUEUED, by
-- priority, and the oldest first. started_at is NULL exactly if a pending execution is QUEUED.
-- Executions of canceled and expired jobs stay in the index until finalize_executions updates their
-- rows.
CREATE INDEX job_executions_queue_by_priority
    ON jobs.job_executions
        (tenant_id, device_id, (started_at IS NULL), queue_order, queued_at, job_id)
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

-- For timed_out_executions, across tenants.
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
    end_cause        text,  -- see the function end_cause
    reported_by      text,  -- as in job_executions
    PRIMARY KEY (tenant_id, job_id, device_id, execution_number)
);

-- Devices

-- What this service stores about devices. The devices themselves are rows of public.device_state. A
-- device without a row here has no labels and no time zone. No index on labels: see the top. The fill
-- factor leaves room for HOT updates of last_seen_at.
CREATE TABLE jobs.devices (
    tenant_id    text COLLATE "C" NOT NULL,
    device_id    text COLLATE "C" NOT NULL,
    labels       jsonb NOT NULL DEFAULT '{}',  -- an object of strings
    time_zone    text,                         -- an IANA name; NULL: unknown
    last_seen_at timestamptz,                  -- NULL: no time is stored
    PRIMARY KEY (tenant_id, device_id)
) WITH (fillfactor = 90);

-- The number of devices of each tenant, if the device tables are the service's own: see
-- change_device_count. `migrate` counts them once.
CREATE TABLE jobs.device_counts (
    tenant_id    text COLLATE "C" NOT NULL,
    device_count bigint NOT NULL,  -- rows of public.device_state
    PRIMARY KEY (tenant_id)
) WITH (fillfactor = 50);

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

-- Events

-- The events that have no position yet. add_event inserts them under the job lock, sequence_events moves
-- them to jobs.events.
--
-- The numbers of the events of a job have no gaps, and each is committed before the next one is inserted. So all
-- events before a visible one are visible too.
CREATE TABLE jobs.event_queue (
    tenant_id   text COLLATE "C" NOT NULL,
    job_id      text COLLATE "C" NOT NULL,
    number      integer NOT NULL,        -- of the event in its job, from 1
    type        text COLLATE "C" NOT NULL,  -- as in Event.type
    occurred_at timestamptz NOT NULL,
    status      text NOT NULL,           -- of the job after the event, of Job.Status
    -- Of ExecutionCounts: queued, held, in_progress, succeeded, failed, timed_out, rejected.
    counts      integer[] NOT NULL,
    user_id     text,                    -- NULL: unknown
    details     jsonb,                   -- the other fields of Event, with their names; NULL: none
    PRIMARY KEY (tenant_id, job_id, number)
) WITH (
    -- Rows live for a second. Dead ones would make each search for new rows slower.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 1000
);

-- The events that readers see.
CREATE TABLE jobs.events (
    tenant_id   text COLLATE "C" NOT NULL,
    position    bigint NOT NULL,         -- see sequence_events
    job_id      text COLLATE "C" NOT NULL,
    type        text COLLATE "C" NOT NULL,
    occurred_at timestamptz NOT NULL,
    status      text NOT NULL,
    counts      json NOT NULL,           -- [100,0,20,3000,12,1,0] takes half the bytes of integer[]
    user_id     text,
    details     jsonb,
    PRIMARY KEY (tenant_id, position)
);
-- For the history of a job.
CREATE INDEX events_by_job ON jobs.events (tenant_id, job_id, position);
-- For the beginning of this history.
CREATE INDEX created_events_by_job ON jobs.events (tenant_id, job_id, position)
    WHERE type = 'job.created';

-- One row per tenant that has events. sequence_events locks it; no transaction takes a job lock after it.
CREATE TABLE jobs.event_heads (
    tenant_id       text COLLATE "C" NOT NULL,
    position        bigint NOT NULL,            -- of the last event
    purged_position bigint NOT NULL DEFAULT 0,  -- events up to it have been purged, or are kept for the history
    event_count     bigint NOT NULL DEFAULT 0,  -- rows in jobs.events
    restarts_until  timestamptz,  -- limits restarts and tests of webhooks: see limit_webhook_restarts
    PRIMARY KEY (tenant_id)
) WITH (fillfactor = 50);

-- Webhooks: cursors on the events of a tenant. No row is stored for a delivery.
CREATE TABLE jobs.webhooks (
    tenant_id       text COLLATE "C" NOT NULL,
    webhook_id      text COLLATE "C" NOT NULL,  -- random, never reused
    url             text NOT NULL,
    description     text NOT NULL DEFAULT '',
    types           text[],                    -- NULL: all
    created_at      timestamptz NOT NULL,
    enabled         boolean NOT NULL DEFAULT true,
    disabled_cause  text,                      -- of Webhook.DisabledCause; NULL: enabled
    position        bigint NOT NULL,           -- the cursor: matching events up to it have been delivered
    -- The event that was delivered last, which the next delivery names, so that a receiver notices a loss. The cursor
    -- can't serve: it also moves over events of other types.
    previous_position bigint NOT NULL,
    purged_position bigint NOT NULL DEFAULT 0, -- events up to it were purged before delivery
    -- NULL: no event is waiting, or disabled. Otherwise, when a dispatcher may claim the webhook: at the retry time,
    -- or at the end of the lease of another dispatcher.
    due_at          timestamptz,
    claim_id        uuid,                      -- of the dispatcher that may store results; NULL: none
    last_attempt_at timestamptz,
    last_success_at timestamptz,
    last_http_status integer NOT NULL DEFAULT 0,
    last_error      text,                      -- of Webhook.DeliveryError; NULL: none
    failure_count   integer NOT NULL DEFAULT 0,
    first_failure_at timestamptz,              -- after the last success; NULL: no failure since then
    -- The last delivery failed, or none has succeeded: it gets one of the few slots for such webhooks.
    is_unproven     boolean NOT NULL DEFAULT true,
    secret_number   integer NOT NULL DEFAULT 1,
    key_id          text NOT NULL,             -- of the master key from which the secret is derived
    rotated_at      timestamptz,               -- of the last RotateWebhookSecret
    previous_key_id text,                      -- of the secret before it
    last_test_at    timestamptz,
    -- When the URL first answered a delivery or a test event with a 2xx status. NULL: not yet. Until then, only test
    -- events are sent.
    verified_at     timestamptz,
    -- update_webhook has moved the cursor back from here: events up to this position are replays.
    replay_position bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, webhook_id)
) WITH (fillfactor = 50);
-- For webhooks_due and next_webhooks, across tenants.
CREATE INDEX webhooks_by_due_at ON jobs.webhooks (is_unproven, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhooks_by_tenant ON jobs.webhooks (is_unproven, tenant_id, due_at)
    WHERE due_at IS NOT NULL;

-- A session sees the rows of the tenant that it has set: all tables above with a tenant_id.
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY[
        'jobs', 'job_labels', 'job_progress', 'job_stages', 'job_failure_criteria', 'job_criterion_counts',
        'job_failures', 'job_executions', 'execution_attempts', 'devices', 'device_counts', 'event_queue',
        'events', 'event_heads', 'webhooks'
    ] LOOP
        EXECUTE format('ALTER TABLE jobs.%I ENABLE ROW LEVEL SECURITY', v_table);
        -- nullif: a setting that was local to an earlier transaction reads '', not NULL.
        EXECUTE format(
            'CREATE POLICY tenant_isolation ON jobs.%I'
            ' USING (tenant_id = nullif(current_setting(''app.tenant_id'', true), ''''))',
            v_table
        );
    END LOOP;
END $$;
