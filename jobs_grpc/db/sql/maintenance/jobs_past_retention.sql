-- Jobs that have been over for $3 days: at most $1, none of the jobs $2.
SELECT tenant_id, job_id
FROM jobs.jobs
WHERE status <> 'IN_PROGRESS' AND deleted_at IS NULL
  AND updated_at < now() - make_interval(days => $3)
  AND job_id || '/' || tenant_id NOT IN (SELECT unnest($2::text[]))
ORDER BY updated_at
LIMIT $1
