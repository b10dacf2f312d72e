-- Returns how the tables $1 are spread over the nodes, in the order of $1.
SELECT
    wanted.name,
    CASE
        WHEN p.partmethod = 'h' AND a.attname = column_to_column_name(c.oid, p.partkey)
            THEN 'distributed'
        WHEN p.partmethod = 'n' AND p.repmodel = 't' THEN 'reference'
        WHEN p.partmethod IN ('h', 'a', 'r') THEN 'other'
        ELSE 'local'
    END AS kind,
    p.colocationid AS colocation_id,
    -- Tables can only be co-located if the type and the collation of tenant_id are the same in all.
    -- Unique keys of distributed tables contain tenant_id.
    coalesce(
        a.atttypid = 'text'::regtype AND a.attcollation = '"C"'::regcollation
        AND NOT EXISTS (
            SELECT FROM pg_index i
            WHERE i.indrelid = c.oid AND i.indisunique AND a.attnum <> ALL (i.indkey)
        ),
        false
    ) AS can_be_distributed,
    pg_has_role(c.relowner, 'USAGE') AS is_own,
    -- Rows that the table had before it was distributed. They are invisible.
    p.logicalrelid IS NOT NULL AND pg_relation_size(c.oid) > 0 AS has_local_rows
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, position)
JOIN pg_class c ON c.oid = to_regclass(wanted.name)
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
LEFT JOIN pg_dist_partition p ON p.logicalrelid = c.oid
ORDER BY wanted.position
