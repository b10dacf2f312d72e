-- Adds what ended an execution: see end_cause. No row is rewritten.
ALTER TABLE jobs.job_executions
    ADD COLUMN end_cause text;
