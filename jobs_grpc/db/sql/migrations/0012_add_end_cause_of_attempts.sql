-- Adds what ended an attempt: see end_cause. No row is rewritten.
ALTER TABLE jobs.execution_attempts
    ADD COLUMN end_cause text;
