-- Finds privileges on own device tables that the request role lacks. Returns the SQL that grants them.
SELECT format('GRANT %s ON %s TO %I', privilege, name, current_user) AS remedy
FROM unnest('{public.device_state, public.device_group_members}'::text[]) AS name
CROSS JOIN unnest('{INSERT, UPDATE, DELETE}'::text[]) AS privilege
WHERE (SELECT is_own FROM jobs.device_tables) AND NOT has_table_privilege(name, privilege)
