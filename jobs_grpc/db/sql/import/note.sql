-- Notes that all devices of the tenant $1 may have changed, if it has a continuous job.
INSERT INTO jobs.device_changes (tenant_id, noted_at, device_count)
SELECT $1, jobs.now(), 0
WHERE EXISTS (SELECT FROM jobs.continuous_jobs c WHERE c.tenant_id = $1)
