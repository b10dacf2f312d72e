-- Changes the tables of a database at the earlier migration 0035 to those of 0001_schema.sql: see
-- conversion.py. The views and functions are replaced afterwards.

-- Only earlier servers used these columns and types. Functions that use the types are dropped with them, and
-- created again.
ALTER TABLE jobs.jobs
    DROP COLUMN rollout_request,
    DROP COLUMN default_expiry,
    DROP COLUMN requested_timeout_minutes;
ALTER TABLE jobs.event_heads DROP COLUMN tests_until;

-- The earlier 0020 may not have run.
DROP INDEX IF EXISTS jobs.job_executions_queue;

DROP TYPE jobs.decided_update CASCADE;
DROP TYPE jobs.decided_retry CASCADE;
DROP TYPE jobs.finished_attempt CASCADE;

-- The constraint was added without reading the rows.
ALTER TABLE jobs.jobs VALIDATE CONSTRAINT jobs_one_target_check;

-- From PostgreSQL 18 on, a NOT NULL constraint has a name. The names of these two contain the names that the
-- columns had before.
ALTER TABLE jobs.webhooks
    ALTER COLUMN last_http_status DROP NOT NULL,
    ALTER COLUMN is_unproven DROP NOT NULL;
ALTER TABLE jobs.webhooks
    ALTER COLUMN last_http_status SET NOT NULL,
    ALTER COLUMN is_unproven SET NOT NULL;

-- Earlier servers stored the request of a job for all devices without its target.
UPDATE jobs.jobs SET request = request || '{"target_all": true}'
WHERE target_all AND NOT request ? 'target_all';

-- These had other names.
UPDATE jobs.events SET type = 'job.stage_approved' WHERE type = 'job.approved';
UPDATE jobs.event_queue SET type = 'job.stage_approved' WHERE type = 'job.approved';
UPDATE jobs.webhooks SET types = array_replace(types, 'job.approved', 'job.stage_approved')
WHERE 'job.approved' = ANY (types);
UPDATE jobs.job_executions SET end_cause = 'DEVICE_DELETED' WHERE end_cause = 'DEVICE_REMOVED';
UPDATE jobs.execution_attempts SET end_cause = 'DEVICE_DELETED' WHERE end_cause = 'DEVICE_REMOVED';

-- Each failure criterion has its counts from the start, for the job or for each stage. Also those of
-- jobs that are completed: RetryExecutions continues these.
INSERT INTO jobs.job_criterion_counts (tenant_id, job_id, criterion, stage)
SELECT c.tenant_id, c.job_id, c.criterion, coalesce(s.stage, -1)
FROM jobs.job_failure_criteria c
LEFT JOIN jobs.job_stages s
    ON s.tenant_id = c.tenant_id AND s.job_id = c.job_id AND c.scope = 'STAGE'
ON CONFLICT DO NOTHING;

DROP TABLE IF EXISTS jobs.schema_migrations;
DELETE FROM jobs.migrations;
-- Views and functions of every version are applied again.
DELETE FROM jobs.schema_code;
