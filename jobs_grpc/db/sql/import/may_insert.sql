-- Returns whether the login may insert rows into the table $1; that of a platform, which manages its devices, may not.
SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'INSERT')
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'jobs' AND c.relname = $1
