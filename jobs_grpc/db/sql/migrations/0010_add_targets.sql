-- Adds jobs for the devices of a selector, for a list of devices, and for those that failed in another job.
ALTER TABLE jobs.jobs
    ADD COLUMN target_selector text,         -- the canonical text
    ADD COLUMN target_device_count integer,  -- of a list
    ADD COLUMN target_failed_in jsonb;       -- job_id, statuses, failure_codes, selector

ALTER TABLE jobs.jobs DROP CONSTRAINT jobs_one_target_check;

-- NOT VALID: no row is read while the table is locked. The earlier check was stricter.
ALTER TABLE jobs.jobs ADD CONSTRAINT jobs_one_target_check CHECK (
    num_nonnulls(
        target_device_id, target_group_id, target_selector, target_device_count, target_failed_in
    ) + target_all::int = 1
) NOT VALID;
