-- Prints the rows of one tenant as SQL for another database of the same schema version. Run by psql, as the owner:
-- psql URL --no-psqlrc --set tenant=acme --file dump_tenant.sql > acme.sql
\set ON_ERROR_STOP 1
\set QUIET 1
\pset format unaligned
\pset tuples_only
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
-- An error instead of missing rows, if a policy applies to this login.
SET LOCAL row_security = off;
SELECT '\set ON_ERROR_STOP 1';
SELECT format(
    'DO $$ BEGIN IF (SELECT max(version) FROM jobs.migrations) <> %s THEN'
    ' RAISE ''the schema versions differ''; END IF; END $$;', max(version))
FROM jobs.migrations;
WITH tenant_tables AS (
    SELECT c.oid::regclass AS name, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    WHERE c.relkind IN ('r', 'p')
        AND (c.relnamespace = 'jobs'::regnamespace
            OR c.oid IN ('public.device_state'::regclass, 'public.device_group_members'::regclass))
    GROUP BY c.oid
    HAVING bool_or(a.attname = 'tenant_id')
)
SELECT unnest(ARRAY[
    format('SELECT %L', format('COPY %s (%s) FROM stdin;', name, columns)),
    format('COPY (SELECT %s FROM %s WHERE tenant_id = %L) TO STDOUT', columns, name, :'tenant'),
    $$SELECT '\.'$$])
FROM tenant_tables
\gexec
COMMIT;
