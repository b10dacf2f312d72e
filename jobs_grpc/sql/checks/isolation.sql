-- Each reason why row-level security would not hold this login to one tenant.
SELECT format('role %I is a superuser', rolname) AS problem,
       format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS', rolname) AS remedy
FROM pg_roles WHERE rolname = current_user AND rolsuper
UNION ALL
SELECT format('role %I has BYPASSRLS', rolname),
       format('ALTER ROLE %I NOBYPASSRLS', rolname)
FROM pg_roles WHERE rolname = current_user AND rolbypassrls AND NOT rolsuper
UNION ALL
SELECT format('role %I %s role %I, which %s', current_user,
              CASE WHEN o.rolname = current_user THEN 'is' ELSE 'is a member of' END, o.rolname,
              CASE WHEN o.rolsuper THEN 'is a superuser'
                   WHEN o.rolbypassrls THEN 'has BYPASSRLS'
                   ELSE 'owns the tables' END),
       CASE WHEN o.rolname = current_user
            THEN 'CREATE ROLE jobs_request LOGIN NOSUPERUSER NOBYPASSRLS'
            ELSE format('REVOKE %I FROM %I', o.rolname, current_user) END
FROM pg_roles o
WHERE pg_has_role(current_user, o.oid, 'MEMBER')
  AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
  AND ((o.rolname <> current_user AND (o.rolsuper OR o.rolbypassrls))
       OR EXISTS (
           SELECT FROM pg_class c
           WHERE c.relowner = o.oid AND c.oid IN (SELECT to_regclass(t) FROM unnest($1::text[]) t)))
UNION ALL
SELECT format('table %s has no row-level security', c.oid::regclass),
       format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', c.oid::regclass)
FROM pg_class c
WHERE c.oid IN (SELECT to_regclass(t) FROM unnest($1::text[]) t) AND NOT c.relrowsecurity
