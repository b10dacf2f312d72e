-- Returns the state of the cluster, as this node knows it.
SELECT
    (SELECT extversion FROM pg_extension WHERE extname = 'citus') AS version,
    citus_is_coordinator() AS is_coordinator,
    count(*) FILTER (WHERE groupid = 0) > 0 AS has_coordinator,
    count(*) FILTER (WHERE isactive AND shouldhaveshards) AS shard_nodes,
    array_agg(format('%s:%s', nodename, nodeport) ORDER BY nodeid)
        FILTER (WHERE isactive AND NOT (hasmetadata AND metadatasynced)) AS without_metadata
FROM pg_dist_node
WHERE noderole = 'primary'
