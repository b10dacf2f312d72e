-- Finds schemas without USAGE for the request role. Returns the SQL that grants it. Another check
-- reports schemas that don't exist.
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', name, current_user) AS remedy
FROM (VALUES ('jobs'), ('public')) AS needed (name)
WHERE to_regnamespace(name) IS NOT NULL AND NOT has_schema_privilege(name, 'USAGE')
