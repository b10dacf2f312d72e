-- Adds rollouts: stages that open one after the other, and criteria that pause or cancel a job when
-- devices fail. No table is rewritten, and rows of jobs without a rollout keep their size: the new
-- columns are NULL or have a constant default. docs/decisions/rollouts.md explains the model.

ALTER TABLE jobs.jobs
    -- The rollout and the failure_criteria of CreateJob as JSON, for repeated requests. UpdateJob
    -- does not change it. NULL: neither.
    ADD COLUMN rollout_request      jsonb,
    ADD COLUMN has_failure_criteria boolean NOT NULL DEFAULT false,
    -- The in_progress_timeout_minutes of CreateJob, 0 if it was unset. Stored by the first UpdateJob that
    -- changes the timeout; NULL until then.
    ADD COLUMN requested_timeout_minutes integer,
    ADD COLUMN max_in_progress      integer,      -- NULL: no limit
    -- The next five are NULL without a rollout. released_at.sql computes from them how many
    -- executions are released: those with a rank up to that number.
    ADD COLUMN open_stage           smallint,     -- the first stage is 0
    ADD COLUMN release_end          integer,      -- the last rank of the open stage
    ADD COLUMN release_base         integer,      -- the number released at release_since
    ADD COLUMN release_rate         integer,      -- per minute; NULL: all up to release_end at once
    ADD COLUMN release_since        timestamptz,
    -- The time at which open_due_stage must check the job; NULL: never.
    ADD COLUMN stage_due_at         timestamptz,
    -- The next stage opens as soon as the open stage is approved.
    ADD COLUMN awaiting_approval    boolean NOT NULL DEFAULT false,
    ADD COLUMN pause_cause          text,         -- of Pause.Cause; NULL: OPERATOR
    ADD COLUMN trip                 jsonb;        -- the last one, as JSON of Trip

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

ALTER TABLE jobs.job_stages ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_failure_criteria ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.job_criterion_counts ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON jobs.job_stages
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_failure_criteria
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.job_criterion_counts
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
