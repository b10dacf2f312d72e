-- Finds reasons why row-level security would not limit this login to one tenant's rows. Returns
-- each with the SQL that fixes it. $1: the tables with a tenant_id.
WITH login AS (
    SELECT oid, rolname, rolsuper, rolbypassrls,
           -- ALTER ROLE cannot make the bootstrap superuser or the owner safe, so the service needs
           -- a separate login.
           format('%s ROLE jobs_request LOGIN NOSUPERUSER NOBYPASSRLS',
                  CASE WHEN to_regrole('jobs_request') IS NULL THEN 'CREATE' ELSE 'ALTER' END)
               AS another_login
    -- Both, because a connection can switch to a role other than its login.
    FROM pg_roles WHERE rolname IN (session_user, current_user)
), tenant_table AS (
    SELECT oid, relowner, relrowsecurity
    FROM unnest($1::text[]) AS name JOIN pg_class ON oid = to_regclass(name)
), policy AS (
    -- The policies that can apply to this login. `isolates`: whether the expressions are known to
    -- limit rows to one tenant; NULL: the policy shows no rows.
    SELECT p.polrelid, p.polname, p.polpermissive, p.polcmd, p.polroles,
           (SELECT bool_and(replace(expression, '(tenant_id)::text', 'tenant_id') IN (
                '(tenant_id = NULLIF(current_setting(''app.tenant_id''::text, true), ''''::text))',
                '(tenant_id = current_setting(''app.tenant_id''::text, true))',
                '(tenant_id = current_setting(''app.tenant_id''::text))'))
            FROM unnest(ARRAY[pg_get_expr(p.polqual, p.polrelid),
                              pg_get_expr(p.polwithcheck, p.polrelid)]) AS expression
            WHERE expression IS NOT NULL) AS isolates
    FROM pg_policy p
    WHERE p.polrelid IN (SELECT oid FROM tenant_table)
      AND EXISTS (
          SELECT FROM login, unnest(p.polroles) AS role
          WHERE role = 0 OR pg_has_role(login.oid, role, 'MEMBER'))
), citus AS (
    SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS installed
), jobs_object AS (
    -- By its index, because the catalog of a platform can be large.
    SELECT classid, objid FROM pg_depend
    WHERE refclassid = 'pg_namespace'::regclass AND refobjid = to_regnamespace('jobs')
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
UNION ALL
-- A row is visible if one permissive policy shows it, whatever the others do. A restrictive policy
-- for this login isolates it and does not affect other roles. Citus creates restrictive policies as
-- permissive ones on the nodes, so there they can be unsafe too, and the remedy replaces the unsafe
-- policy, for all roles.
SELECT format('policy %I on table %s may show role %I the rows of other tenants', polname,
              polrelid::regclass, rolname),
       format('DROP POLICY IF EXISTS %1$I ON %2$s; CREATE POLICY %1$I ON %2$s%3$s'
              ' USING (tenant_id = nullif(current_setting(''app.tenant_id'', true), ''''))',
              CASE WHEN installed THEN polname ELSE 'tenant_isolation_' || rolname END,
              polrelid::regclass,
              CASE WHEN NOT installed THEN format(' AS RESTRICTIVE TO %I', rolname) END)
FROM policy JOIN login ON NOT login.rolsuper CROSS JOIN citus
WHERE (polpermissive OR installed) AND NOT isolates
  AND NOT EXISTS (
      SELECT FROM policy restrictive
      WHERE NOT installed AND restrictive.polrelid = policy.polrelid
        AND NOT restrictive.polpermissive
        AND restrictive.polcmd = '*' AND restrictive.isolates
        AND restrictive.polroles && ARRAY[0::oid, login.oid])
UNION ALL
SELECT format('view %s shows the rows of all tenants: it is not a security invoker', oid::regclass),
       format('ALTER VIEW %s SET (security_invoker = true)', oid::regclass)
FROM jobs_object JOIN pg_class ON oid = objid
WHERE classid = 'pg_class'::regclass AND relkind = 'v'
  AND NOT coalesce(reloptions @> '{security_invoker=true}', false)
UNION ALL
SELECT format('function %s may show the rows of all tenants: it is a security definer',
              oid::regprocedure),
       format('ALTER FUNCTION %s SECURITY INVOKER', oid::regprocedure)
FROM jobs_object JOIN pg_proc ON oid = objid
WHERE classid = 'pg_proc'::regclass AND prosecdef
