-- Adds the failure codes of devices. No row changes.

-- Not NULL if the device failed: it is FAILED, REJECTED by the device, or TIMED_OUT while
-- IN_PROGRESS. '' if the device named no code. NULL in rows that failed before this migration.
ALTER TABLE jobs.job_executions ADD COLUMN failure_code text COLLATE "C";

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
