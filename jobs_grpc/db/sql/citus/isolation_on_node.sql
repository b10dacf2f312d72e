-- Returns what the check finds on this node, as JSON. citus.py inserts checks/isolation.sql, for the
-- tables and their shards: rows are in the shards, and row-level security applies to each.
SELECT coalesce(json_agg(json_build_array(problem, remedy)), '[]')::text
FROM (
    SELECT problem, remedy FROM ({check}) AS found (problem, remedy)
    LIMIT 5  -- a policy is on all shards of a table
) AS first
