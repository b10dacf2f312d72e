-- Returns the functions of the schema "jobs" that still need a change. A call of a function $1 runs
-- on the node of its tenant: its distribution argument is p_tenant_id. The other functions exist on
-- all nodes and run where they are called.
SELECT
    p.oid::regprocedure::text AS signature,
    entry.argument,
    placed.objid IS NULL OR (
        entry.argument IS NOT NULL
        AND (placed.distribution_argument_index IS NULL
             OR placed.colocationid IS DISTINCT FROM jobs.colocationid)
    ) AS must_be_distributed,
    caches_plans
FROM pg_proc p
CROSS JOIN LATERAL (
    SELECT CASE WHEN p.proname = ANY ($1::text[]) AND p.proargnames[1] = 'p_tenant_id'
                THEN 'p_tenant_id' END AS argument,
           EXISTS (SELECT FROM unnest(p.proconfig) AS setting
                   WHERE setting LIKE 'plan\_cache\_mode=%') AS caches_plans
) entry
LEFT JOIN pg_dist_object placed
    ON placed.classid = 'pg_proc'::regclass AND placed.objid = p.oid AND placed.objsubid = 0
LEFT JOIN pg_dist_partition jobs ON jobs.logicalrelid = 'jobs.jobs'::regclass
WHERE p.pronamespace = 'jobs'::regnamespace
ORDER BY signature
