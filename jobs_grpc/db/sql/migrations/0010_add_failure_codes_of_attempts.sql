-- Adds the failure codes of earlier attempts. No row changes.
ALTER TABLE jobs.execution_attempts ADD COLUMN failure_code text COLLATE "C";
