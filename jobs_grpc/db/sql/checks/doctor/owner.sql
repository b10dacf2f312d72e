-- Which role and database a connection uses, and whether the role sees the rows of all tenants.
SELECT current_user::text AS role,
       pg_postmaster_start_time() AS started,
       (SELECT oid FROM pg_database WHERE datname = current_database()) AS database,
       jobs.oid IS NOT NULL AS has_tables,
       coalesce(has_schema_privilege(relnamespace, 'USAGE')
                AND has_table_privilege(jobs.oid, 'SELECT')
                AND NOT row_security_active(jobs.oid), false) AS sees_all_rows
FROM (VALUES ('jobs')) AS expected (name)
LEFT JOIN pg_class AS jobs
    ON relname = name
    AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = name)
