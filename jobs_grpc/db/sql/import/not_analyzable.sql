-- Returns those of the tables $1 that the current role may not analyze. The privilege MAINTAIN
-- exists from PostgreSQL 17 on.
SELECT wanted.name
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, position)
JOIN pg_class c ON c.oid = wanted.name::regclass
JOIN pg_database d ON d.datname = current_database()
WHERE NOT pg_has_role(c.relowner, 'USAGE') AND NOT pg_has_role(d.datdba, 'USAGE')
  AND NOT CASE WHEN current_setting('server_version_num')::integer >= 170000
               THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END
ORDER BY wanted.position
