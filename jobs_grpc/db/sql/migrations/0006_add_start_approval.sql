-- Adds the approval of the start of a job.
ALTER TABLE jobs.jobs
    ADD COLUMN start_approval jsonb;  -- as JSON of StartApproval; {}: needed, but not given; NULL: not needed
