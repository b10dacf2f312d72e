-- Adds whether create_job computed expires_in_hours, because the job has a rollout and the request has
-- no expiry. A repeated request is compared with it. No row is rewritten.
ALTER TABLE jobs.jobs
    ADD COLUMN default_expiry boolean NOT NULL DEFAULT false;
