-- Finds privileges on tables and views that the request role lacks: those of grants.sql ($1: the names;
-- $2: the privileges, parallel), and SELECT on the device tables, which can belong to another role.
-- Returns the SQL that grants them.
SELECT format('GRANT %s ON %s TO %I', privilege, name, current_user) AS remedy
FROM (
    SELECT * FROM unnest($1::text[], $2::text[])
    UNION ALL
    VALUES ('public.device_state', 'SELECT'), ('public.device_group_members', 'SELECT')
) AS needed (name, privilege)
WHERE NOT has_table_privilege(name, privilege)
