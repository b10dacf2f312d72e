-- Runs the check $1 on all nodes. Returns its result, or the error.
SELECT format('%s:%s', nodename, nodeport) AS node, command.success, command.result
FROM run_command_on_all_nodes($1, give_warning_for_connection_errors => true) AS command
JOIN pg_dist_node USING (nodeid)
ORDER BY nodeid
