-- Adds the events that have no position yet. add_event inserts them under the job lock, sequence_events moves
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
ALTER TABLE jobs.event_queue ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON jobs.event_queue
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
