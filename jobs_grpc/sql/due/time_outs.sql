-- Executions past their deadline, the longest first: at most $1, none of the jobs $2.
SELECT tenant_id, job_id, device_id
FROM jobs.job_executions
WHERE status = 'IN_PROGRESS' AND times_out_at <= now()
  AND job_id || '/' || tenant_id <> ALL ($2::text[])
ORDER BY times_out_at
LIMIT $1
