-- Executions past their deadline, the longest first: at most $1, none of the jobs $2. Those
-- that a forced cancel or a deletion has ended are written down elsewhere.
SELECT e.tenant_id, e.job_id, e.device_id
FROM jobs.job_executions e
JOIN jobs.jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
WHERE e.status = 'IN_PROGRESS' AND e.times_out_at <= now()
  AND NOT j.force_canceled AND j.deleted_at IS NULL
  AND e.job_id || '/' || e.tenant_id NOT IN (SELECT unnest($2::text[]))
ORDER BY e.times_out_at
LIMIT $1
