-- Deletes all rows of one tenant, after it has moved to another cell. Run by psql, as the owner:
-- psql URL --no-psqlrc --set tenant=acme --file delete_tenant.sql
\set ON_ERROR_STOP 1
BEGIN;
SET LOCAL row_security = off;
SELECT format('DELETE FROM %s WHERE tenant_id = %L', c.oid::regclass, :'tenant')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
WHERE c.relkind IN ('r', 'p')
    AND (c.relnamespace = 'jobs'::regnamespace
        OR c.oid IN ('public.device_state'::regclass, 'public.device_group_members'::regclass))
\gexec
COMMIT;
