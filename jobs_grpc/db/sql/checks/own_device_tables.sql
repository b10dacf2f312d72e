-- Finds why this service could not write to the device tables: $1, parallel to $2, the names of their
-- key columns as a comma-separated list. Returns no row for a table that does not exist.
SELECT format(problem.text, wanted.name) AS problem
FROM unnest($1::text[], $2::text[]) AS wanted (name, key)
JOIN pg_class c ON c.oid = to_regclass(wanted.name)
CROSS JOIN LATERAL (
    SELECT 'table %s belongs to another role' AS text
    WHERE NOT pg_has_role(c.relowner, 'USAGE')
    UNION ALL
    SELECT 'table %s has no unique key (' || wanted.key || ')'
    WHERE NOT EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
          AND i.indexprs IS NULL AND i.indnkeyatts = cardinality(string_to_array(wanted.key, ', '))
          AND NOT EXISTS (
              SELECT FROM unnest(string_to_array(wanted.key, ', ')) AS k (name)
              WHERE NOT EXISTS (
                  SELECT FROM pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attname = k.name AND a.attnum = ANY (i.indkey)
              )
          )
    )
    UNION ALL
    SELECT 'column ' || quote_ident(a.attname) || ' of table %s is NOT NULL without a default'
    FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
      AND NOT a.atthasdef AND a.attidentity = ''
      AND a.attname <> ALL (string_to_array(wanted.key, ', '))
) problem
