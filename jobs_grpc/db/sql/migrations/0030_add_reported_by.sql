-- Adds the bridge that started or reported for a device: see JobExecution.reported_by. No row is rewritten.
ALTER TABLE jobs.job_executions
    ADD COLUMN reported_by text;  -- '': a bridge without a subject; NULL: only the device itself
