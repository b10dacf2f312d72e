-- Finds executions IN_PROGRESS past times_out_at, in the order of times_out_at: at most $1.
-- Excludes the jobs with tenant_id in $2 and job_id in $3 (parallel arrays). Also excludes
-- executions that a forced cancel or a deletion has ended; finalize_job and purge_job handle those.
SELECT e.tenant_id, e.job_id, e.device_id
FROM jobs.job_executions e
JOIN jobs.jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
WHERE e.status = 'IN_PROGRESS' AND e.times_out_at <= now()
  AND NOT j.force_canceled AND j.deleted_at IS NULL
  AND (e.tenant_id, e.job_id) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))
ORDER BY e.times_out_at
LIMIT $1
