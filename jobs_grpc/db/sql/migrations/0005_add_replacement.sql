-- Adds the two ends of a replacement: see CreateJobRequest.replaces_job_id.
ALTER TABLE jobs.jobs
    ADD COLUMN replaces_job_id text COLLATE "C",     -- NULL: none
    ADD COLUMN replaced_by_job_id text COLLATE "C";  -- the last job that replaces this one; NULL: none
