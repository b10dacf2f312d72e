-- Adds what a job stores about the devices that join it: see CreateJobRequest.continuous.
ALTER TABLE jobs.jobs
    ADD COLUMN is_continuous boolean NOT NULL DEFAULT false,  -- devices can still join, unless the job has expired
    -- How many executions joins have added: the others were created with the job. NULL: the job never was continuous.
    ADD COLUMN joined_count integer,
    ADD COLUMN last_joined_at timestamptz;                    -- NULL: no device has joined
