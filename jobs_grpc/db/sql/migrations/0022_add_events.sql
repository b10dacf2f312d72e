-- Adds the events that readers see.
CREATE TABLE jobs.events (
    tenant_id   text COLLATE "C" NOT NULL,
    position    bigint NOT NULL,         -- see sequence_events
    job_id      text COLLATE "C" NOT NULL,
    type        text COLLATE "C" NOT NULL,
    occurred_at timestamptz NOT NULL,
    status      text NOT NULL,
    counts      integer[] NOT NULL,
    user_id     text,
    details     jsonb,
    PRIMARY KEY (tenant_id, position)
);
-- For the history of a job.
CREATE INDEX events_by_job ON jobs.events (tenant_id, job_id, position);
-- For the beginning of this history.
CREATE INDEX created_events_by_job ON jobs.events (tenant_id, job_id, position)
    WHERE type = 'job.created';
ALTER TABLE jobs.events ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON jobs.events
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
