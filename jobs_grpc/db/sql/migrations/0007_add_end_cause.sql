-- Adds what ended an execution or an attempt: see end_cause. No row is rewritten.
ALTER TABLE jobs.job_executions
    ADD COLUMN end_cause text;
ALTER TABLE jobs.execution_attempts
    ADD COLUMN end_cause text;
