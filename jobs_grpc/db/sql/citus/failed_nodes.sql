-- Runs the command $1 on all nodes. Returns the nodes on which it failed or whose result is not
-- true, each with the result or the error.
SELECT format('%s:%s', nodename, nodeport) AS node, result
FROM run_command_on_all_nodes($1, give_warning_for_connection_errors => true) AS command
JOIN pg_dist_node USING (nodeid)
WHERE NOT command.success OR command.result IS DISTINCT FROM 't'
ORDER BY nodeid
