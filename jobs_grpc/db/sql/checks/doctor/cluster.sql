-- The nodes of the Citus cluster that may hold shards, with the number of tenants' shards on each: the
-- shards of jobs.jobs. NULL instead of nodes if the table is not distributed.
SELECT array_agg(format('%s:%s', nodename, nodeport) ORDER BY nodeid) AS nodes,
       array_agg(shards ORDER BY nodeid) AS shards,
       EXISTS (SELECT FROM pg_dist_partition
               WHERE logicalrelid = to_regclass('jobs.jobs') AND partmethod = 'h') AS distributed
FROM pg_dist_node AS node
CROSS JOIN LATERAL (
    SELECT count(*) AS shards
    FROM pg_dist_placement AS placement
    JOIN pg_dist_shard USING (shardid)
    WHERE placement.groupid = node.groupid AND logicalrelid = to_regclass('jobs.jobs')
) AS held
WHERE noderole = 'primary' AND isactive AND shouldhaveshards
