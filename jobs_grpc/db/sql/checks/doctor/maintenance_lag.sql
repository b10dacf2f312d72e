-- For how long the oldest work of each maintenance task has been due, in seconds; NULL: none is
-- due. $1: the retention in days, or NULL. Needs the owner, who sees all tenants.
SELECT extract(epoch FROM jobs.now() - (
           SELECT due_at FROM jobs.timed_out_executions(1, '{}', '{}')))::double precision AS timeout,
       extract(epoch FROM jobs.now() - (
           SELECT due_at FROM jobs.stages_due(1, '{}', '{}')))::double precision AS stages,
       extract(epoch FROM jobs.now() - (
           SELECT due_at FROM jobs.jobs_to_finalize(1, '{}', '{}')))::double precision AS finalization,
       extract(epoch FROM jobs.now() - (
           SELECT due_at FROM jobs.jobs_past_retention(1, '{}', '{}', $1)))::double precision
           AS retention,
       extract(epoch FROM jobs.now() - (
           SELECT due_at FROM jobs.jobs_to_purge(1, '{}', '{}')))::double precision AS purge
