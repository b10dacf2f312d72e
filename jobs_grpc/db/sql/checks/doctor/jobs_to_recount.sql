-- The jobs to recount: those that are not finished, then the newest, with at most $1 executions in total. A small job
-- takes as long as one of 100. Needs the owner, who sees all tenants.
SELECT c.tenant_id, c.job_id, c.executions
FROM (
    SELECT j.tenant_id, j.job_id, p.executions,
           sum(greatest(p.executions, 100))
               OVER (ORDER BY j.finalized, j.created_at DESC, j.tenant_id, j.job_id) AS total
    FROM jobs.jobs j
    JOIN (
        SELECT p.tenant_id, p.job_id,
               p.queued + p.in_progress + p.succeeded + p.failed + p.timed_out + p.rejected
                   AS executions
        FROM jobs.job_progress p
    ) p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
    WHERE j.deleted_at IS NULL AND p.executions <= $1
) c
WHERE c.total <= $1
ORDER BY c.total
