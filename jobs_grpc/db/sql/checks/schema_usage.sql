-- Which schemas the request role can't look into, as the SQL that lets it. A schema that is
-- not there is another check's matter.
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', name, current_user) AS remedy
FROM (VALUES ('jobs'), ('public')) AS needed (name)
WHERE to_regnamespace(name) IS NOT NULL AND NOT has_schema_privilege(name, 'USAGE')
