-- Returns the functions of the schema "jobs", each with what it still needs. A call of a function $1
-- runs on the node of its tenant: its distribution argument is p_tenant_id. The other functions exist
-- on all nodes and run where they are called. docs/decisions/citus.md explains the settings.
SELECT
    p.oid::regprocedure::text AS signature,
    entry.argument,
    placed.objid IS NULL OR (
        entry.argument IS NOT NULL
        AND (placed.distribution_argument_index IS NULL
             OR placed.colocationid IS DISTINCT FROM jobs.colocationid)
    ) AS must_be_distributed,
    array_remove(ARRAY[
        CASE
            -- Functions with a search_path are called from outside; the others inherit settings.
            WHEN NOT entry.settings LIKE '%search_path=%' THEN
                CASE WHEN entry.settings LIKE '%plan_cache_mode=%' THEN 'RESET plan_cache_mode' END
            WHEN NOT entry.settings LIKE '%plan_cache_mode=force_custom_plan%'
                THEN 'SET plan_cache_mode = force_custom_plan'
        END,
        CASE WHEN entry.argument IS NOT NULL
                  AND NOT entry.settings LIKE '%citus.allow_nested_distributed_execution=on%'
             THEN 'SET citus.allow_nested_distributed_execution = on' END
    ], NULL) AS changes
FROM pg_proc p
CROSS JOIN LATERAL (
    SELECT CASE WHEN p.proname = ANY ($1::text[]) AND p.proargnames[1] = 'p_tenant_id'
                THEN 'p_tenant_id' END AS argument,
           coalesce(array_to_string(p.proconfig, ';'), '') AS settings
) entry
LEFT JOIN pg_dist_object placed
    ON placed.classid = 'pg_proc'::regclass AND placed.objid = p.oid AND placed.objsubid = 0
LEFT JOIN pg_dist_partition jobs ON jobs.logicalrelid = 'jobs.jobs'::regclass
WHERE p.pronamespace = 'jobs'::regnamespace
ORDER BY signature
