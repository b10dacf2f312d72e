-- Adds pauses of jobs and the failure codes of devices. No table is rewritten, and rows keep their
-- size: the new columns are NULL or have a constant default.

-- A paused job is stored as IN_PROGRESS. Readers see PAUSED.
ALTER TABLE jobs.jobs
    ADD COLUMN paused_at    timestamptz,  -- NULL: not paused
    ADD COLUMN paused_by    text,         -- NULL: unknown
    ADD COLUMN pause_reason text,
    ADD COLUMN revision     integer NOT NULL DEFAULT 1,  -- of the settings of the job; its etag
    -- Not validated, because that would read all rows. No row has a pause yet.
    ADD CONSTRAINT jobs_pause_check
        CHECK ((paused_at IS NULL) = (pause_reason IS NULL)
               AND (paused_at IS NOT NULL OR paused_by IS NULL)) NOT VALID;

-- Not NULL if the device failed: it is FAILED, REJECTED by the device, or TIMED_OUT while
-- IN_PROGRESS. '' if the device named no code. NULL in rows that failed before this migration.
ALTER TABLE jobs.job_executions ADD COLUMN failure_code text COLLATE "C";
ALTER TABLE jobs.execution_attempts ADD COLUMN failure_code text COLLATE "C";

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

ALTER TABLE jobs.job_failures ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON jobs.job_failures
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
