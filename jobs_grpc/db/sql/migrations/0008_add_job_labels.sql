-- Adds labels and descriptions of jobs. No row is rewritten.
ALTER TABLE jobs.jobs
    ADD COLUMN labels jsonb,      -- an object of texts; NULL: none
    ADD COLUMN description text;  -- NULL: none

-- For list_jobs: one row per label of each job that is not deleted. Written under the job lock.
CREATE TABLE jobs.job_labels (
    tenant_id  text COLLATE "C" NOT NULL,
    label      text COLLATE "C" NOT NULL,  -- key=value; a key has no "="
    created_at timestamptz NOT NULL,       -- of the job
    job_id     text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, label, created_at, job_id)
);
ALTER TABLE jobs.job_labels ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON jobs.job_labels
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
