-- Adds what devices are told about attempts that others ended: see the function ended_executions.
ALTER TABLE jobs.job_executions
    -- The last attempt that was IN_PROGRESS when others ended it, until the device acknowledges it or changes a later
    -- attempt: this attempt, or an earlier one. NULL: none. If the row is finished and has one, it has an end_cause.
    ADD COLUMN ended_number integer;
