-- Returns who manages the device tables, what the request role may do with the platform's although this
-- service only reads them, and the indexes that calls need and the tables lack. Pages are in byte
-- order, so the columns after tenant_id need the collation "C".
SELECT
    d.is_own,
    ARRAY(
        SELECT format('REVOKE %s ON %s FROM %I', privilege, name, current_user)
        FROM unnest('{public.device_state, public.device_group_members}'::text[]) AS name
        CROSS JOIN unnest('{INSERT, UPDATE, DELETE}'::text[]) AS privilege
        WHERE NOT d.is_own AND has_table_privilege(name, privilege)
    ) AS excess_privileges,
    ARRAY(
        SELECT format(
            'CREATE INDEX CONCURRENTLY ON %s (tenant_id, %s)', wanted.name, (
                SELECT string_agg(column_name || ' COLLATE "C"', ', ' ORDER BY n)
                FROM unnest(wanted.columns) WITH ORDINALITY AS c (column_name, n)
            )
        )
        FROM (VALUES
            ('public.device_state', '{device_id}'::text[]),
            ('public.device_group_members', '{group_id, device_id}'),
            ('public.device_group_members', '{device_id}')
        ) AS wanted (name, columns)
        WHERE NOT EXISTS (
            SELECT FROM pg_index i
            JOIN pg_class c ON c.oid = i.indexrelid
            JOIN pg_am am ON am.oid = c.relam AND am.amname = 'btree'
            WHERE i.indrelid = wanted.name::regclass AND i.indisvalid AND i.indpred IS NULL
              AND (
                  SELECT array_agg(
                      a.attname::text
                      || CASE WHEN k.collation_id = '"C"'::regcollation OR k.n = 1 THEN ''
                              ELSE ' in another collation' END
                      ORDER BY k.n
                  )
                  FROM unnest(i.indkey::int2[], i.indcollation::oid[]) WITH ORDINALITY
                      AS k (attnum, collation_id, n)
                  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                  WHERE k.n <= cardinality(wanted.columns) + 1
              ) = 'tenant_id'::text || wanted.columns
        )
    ) AS missing_indexes
FROM jobs.device_tables d
