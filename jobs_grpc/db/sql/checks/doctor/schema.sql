-- Whether the tables that record the schema exist, and whether this role can read them.
SELECT count(*) = 2 AS exists,
       coalesce(bool_and(has_table_privilege(c.oid, 'SELECT')), false) AS readable
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = 'jobs' AND relname IN ('migrations', 'schema_code')
