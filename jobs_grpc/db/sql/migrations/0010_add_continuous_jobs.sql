-- Adds the jobs that devices can join, and the notes of the devices that may join one.

-- One row per continuous job. Written under the job lock; deleted when the job is no longer continuous. After an
-- expiry, the next pass deletes it.
CREATE TABLE jobs.continuous_jobs (
    tenant_id text COLLATE "C" NOT NULL,
    job_id    text COLLATE "C" NOT NULL,
    -- The terms of the target: see services/selectors.py. A group is the term "group in (…)"; []: all devices.
    terms     jsonb NOT NULL,
    fact_keys text[] NOT NULL,             -- the facts that the terms name, without "fact."
    -- The join brake. The hour begins with its first join.
    max_joins_per_hour integer,            -- NULL: see join_devices
    hour_started_at timestamptz,           -- NULL: no device has joined since the creation or ResumeJob
    hour_limit integer,
    hour_joins integer NOT NULL DEFAULT 0,
    is_stopped boolean NOT NULL DEFAULT false,  -- the brake has stopped joins, until ResumeJob
    is_full   boolean NOT NULL DEFAULT false,   -- a device could not join because of JOBS_MAX_TARGETS
    -- The full pass over the devices of the tenant.
    scan_after text COLLATE "C",           -- the last device_id that the running pass has read; NULL: none runs
    scan_due_at timestamptz NOT NULL,      -- when the next pass begins, or the running one continues
    rescan_at timestamptz,                 -- a pass must begin at or after this time; NULL: the regular ones suffice
    -- Changes were not looked at: cleared at the end of a full pass that began later.
    is_behind boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, job_id)
) WITH (fillfactor = 50);
-- For the search across tenants.
CREATE INDEX continuous_jobs_by_scan_due_at ON jobs.continuous_jobs (scan_due_at);

-- Notes: one row per call that registered devices, or changed their labels, facts or groups, in a tenant with a
-- continuous job. Inserted in the transaction of the change, never updated; deleted by read_device_changes and
-- delete_device_changes.
CREATE TABLE jobs.device_changes (
    tenant_id text COLLATE "C" NOT NULL,
    noted_at  timestamptz NOT NULL,
    -- Random, because on Citus a sequence is of a node.
    change_id uuid NOT NULL DEFAULT gen_random_uuid(),
    device_ids text[],                     -- NULL: all devices of the tenant may have changed
    device_count integer NOT NULL,         -- read without the IDs
    PRIMARY KEY (tenant_id, noted_at, change_id)
) WITH (
    -- As in event_queue.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 1000
);

ALTER TABLE jobs.continuous_jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs.device_changes ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON jobs.continuous_jobs
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
CREATE POLICY tenant_isolation ON jobs.device_changes
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
