-- Returns whether {role}, a literal, may read all views of the schema "jobs" on this node.
SELECT NOT EXISTS (
    SELECT FROM pg_class
    WHERE relnamespace = to_regnamespace('jobs') AND relkind = 'v'
      AND NOT has_table_privilege({role}, oid, 'SELECT')
)
