-- Returns the tables of $1 whose policy shows no rows while the tenant is not set. On Citus, the policy
-- must raise an error instead. When Citus moves a shard while a call uses it, the remaining statements
-- of the call run in a session of another node, where the tenant is not set: without the error, the
-- call would find no rows.
SELECT polrelid::regclass::text AS name
FROM unnest($1::text[]) AS wanted (name)
JOIN pg_policy ON polrelid = to_regclass(wanted.name)
JOIN pg_class c ON c.oid = polrelid
WHERE polname = 'tenant_isolation' AND pg_has_role(c.relowner, 'USAGE')
  AND pg_get_expr(polqual, polrelid)
      = '(tenant_id = NULLIF(current_setting(''app.tenant_id''::text, true), ''''::text))'
