-- Finds reasons why row-level security would not limit this login to one tenant's rows. Returns
-- each with the SQL that fixes it. $1: the tables with a tenant_id.
WITH login AS (
    SELECT oid, rolname, rolsuper, rolbypassrls,
           -- No ALTER ROLE helps the bootstrap superuser or the owner: the service needs another
           -- login.
           format('%s ROLE jobs_request LOGIN NOSUPERUSER NOBYPASSRLS',
                  CASE WHEN to_regrole('jobs_request') IS NULL THEN 'CREATE' ELSE 'ALTER' END)
               AS another_login
    -- Both, because a connection can switch to another role than its login.
    FROM pg_roles WHERE rolname IN (session_user, current_user)
), tenant_table AS (
    SELECT oid, relowner, relrowsecurity
    FROM pg_class WHERE oid IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)
)
SELECT format('role %I is a superuser (JOBS_DATABASE_URL needs a separate login)', rolname)
           AS problem,
       CASE WHEN oid = 10 THEN another_login
            ELSE format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS', rolname) END AS remedy
FROM login WHERE rolsuper
UNION ALL
SELECT format('role %I has BYPASSRLS', rolname), format('ALTER ROLE %I NOBYPASSRLS', rolname)
FROM login WHERE rolbypassrls AND NOT rolsuper
UNION ALL
SELECT format('role %I owns the tables (JOBS_DATABASE_URL needs a separate login)', rolname),
       another_login
FROM login WHERE NOT rolsuper AND oid IN (SELECT relowner FROM tenant_table)
UNION ALL
SELECT format('role %I is a member of role %I, which %s', login.rolname, granted.rolname,
              CASE WHEN granted.rolsuper THEN 'is a superuser'
                   WHEN granted.rolbypassrls THEN 'has BYPASSRLS'
                   ELSE 'owns the tables' END),
       -- The login's own memberships that lead to the role, directly or not.
       (SELECT string_agg(format('REVOKE %I FROM %I', direct.rolname, login.rolname), '; ')
        FROM pg_auth_members m JOIN pg_roles direct ON direct.oid = m.roleid
        WHERE m.member = login.oid AND pg_has_role(direct.oid, granted.oid, 'MEMBER'))
FROM login JOIN pg_roles granted
    ON granted.oid <> login.oid AND pg_has_role(login.oid, granted.oid, 'MEMBER')
WHERE NOT login.rolsuper
  AND (granted.rolsuper OR granted.rolbypassrls
       OR granted.oid IN (SELECT relowner FROM tenant_table))
UNION ALL
SELECT format('table %s has no row-level security', oid::regclass),
       format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', oid::regclass)
           || CASE WHEN EXISTS (SELECT FROM pg_policy WHERE polrelid = tenant_table.oid) THEN ''
              ELSE format('; CREATE POLICY tenant_isolation ON %s USING'
                          ' (tenant_id = nullif(current_setting(''app.tenant_id'', true), ''''))',
                          oid::regclass) END
FROM tenant_table WHERE NOT relrowsecurity
