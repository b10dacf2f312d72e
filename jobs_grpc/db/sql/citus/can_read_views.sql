-- Returns whether a role may read all views of the schema "jobs" on this node. {role} is replaced by
-- the name of the role as a literal.
SELECT NOT EXISTS (
    SELECT FROM pg_class
    WHERE relnamespace = to_regnamespace('jobs') AND relkind = 'v'
      AND NOT has_table_privilege({role}, oid, 'SELECT')
)
