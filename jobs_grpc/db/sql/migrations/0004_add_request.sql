-- Adds the request that created a job: see create_request. It replaces rollout_request, default_expiry
-- and requested_timeout_minutes, which only jobs that were created before have. No row is rewritten.
ALTER TABLE jobs.jobs
    ADD COLUMN request jsonb;
