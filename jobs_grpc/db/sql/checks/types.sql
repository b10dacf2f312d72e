-- The types of answers that asyncpg looks up in the catalog, once a connection.
SELECT NULL::integer[], NULL::jsonb[], NULL::timestamptz[]
