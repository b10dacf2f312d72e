-- For how long the oldest work of each maintenance task has been due, in seconds; NULL: none is
-- due. $1: the retention in days, or NULL. Needs the owner, who sees all tenants. The conditions and
-- the order are those of the partial indexes that the searches of maintenance use.
SELECT extract(epoch FROM jobs.now() - (
           SELECT times_out_at FROM jobs.job_executions
           WHERE status = 'IN_PROGRESS' AND times_out_at <= jobs.now()
           ORDER BY times_out_at LIMIT 1))::double precision AS timeout,
       extract(epoch FROM jobs.now() - (
           SELECT stage_due_at FROM jobs.jobs
           WHERE stage_due_at IS NOT NULL AND paused_at IS NULL AND status = 'IN_PROGRESS'
             AND deleted_at IS NULL AND stage_due_at <= jobs.now()
           ORDER BY stage_due_at LIMIT 1))::double precision AS stages,
       extract(epoch FROM jobs.now() - (
           SELECT coalesce(canceled_at, expires_at) FROM jobs.jobs
           WHERE NOT finalized AND deleted_at IS NULL AND coalesce(canceled_at, expires_at) <= jobs.now()
           ORDER BY coalesce(canceled_at, expires_at) LIMIT 1))::double precision AS finalization,
       extract(epoch FROM jobs.now() - make_interval(days => $1::integer) - (
           SELECT updated_at FROM jobs.jobs
           WHERE status <> 'IN_PROGRESS' AND deleted_at IS NULL
             AND updated_at < jobs.now() - make_interval(days => $1::integer)
           ORDER BY updated_at LIMIT 1))::double precision AS retention,
       extract(epoch FROM jobs.now() - (
           SELECT min(deleted_at) FROM jobs.jobs WHERE deleted_at IS NOT NULL))::double precision
           AS purge
