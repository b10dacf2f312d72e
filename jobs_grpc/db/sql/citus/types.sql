-- Returns the types of the schema "jobs" that other nodes do not have. Citus creates those of columns and
-- of signatures of functions, but not those that only bodies of functions name.
SELECT t.oid::regtype::text AS name
FROM pg_type t
LEFT JOIN pg_class c ON c.oid = t.typrelid
LEFT JOIN pg_dist_object placed
    ON placed.classid = 'pg_type'::regclass AND placed.objid = t.oid AND placed.objsubid = 0
WHERE t.typnamespace = 'jobs'::regnamespace AND placed.objid IS NULL
  -- No row types of tables and views.
  AND (t.typtype = 'e' OR c.relkind = 'c')
ORDER BY t.typtype DESC, 1;  -- enums first: records have fields of them
