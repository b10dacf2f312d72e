-- Adds the place of an execution in the rollout of its job. No row changes.
-- NULL without a rollout. Ranks are 1, 2, 3 … in the order of release.
ALTER TABLE jobs.job_executions
    ADD COLUMN rank  integer,
    ADD COLUMN stage smallint;
