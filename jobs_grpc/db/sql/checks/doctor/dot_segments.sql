-- Up to 6 devices and 6 jobs whose IDs have a segment "." or "..", of the tenant $1, or of all tenants if it is
-- NULL. Reads all rows: the doctor cancels it after some seconds. Needs the owner, who sees all tenants.
(
    SELECT 'device' AS kind, d.tenant_id, d.device_id AS id
    FROM public.device_state d
    WHERE ($1::text IS NULL OR d.tenant_id = $1) AND jobs.has_dot_segment(d.device_id)
    LIMIT 6
)
UNION ALL
(
    SELECT 'job', j.tenant_id, j.job_id
    FROM jobs.jobs j
    WHERE ($1::text IS NULL OR j.tenant_id = $1) AND j.job_id IN ('.', '..') AND j.deleted_at IS NULL
    LIMIT 6
)
