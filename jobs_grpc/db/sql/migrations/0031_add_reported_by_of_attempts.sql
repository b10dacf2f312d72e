-- Adds the bridge that started or reported for a device. No row is rewritten.
ALTER TABLE jobs.execution_attempts
    ADD COLUMN reported_by text;
