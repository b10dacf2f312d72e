-- Returns whether every migration of this version ($1 versions, $2 checksums) and its set of views
-- and functions ($3) was applied. The database can have newer ones: migrations only add
-- objects, and newer functions still serve older servers.
SELECT NOT EXISTS (
    SELECT FROM unnest($1::text[], $2::text[]) AS expected (version, checksum)
    LEFT JOIN jobs.migrations m ON m.version = expected.version::integer
    WHERE m.checksum IS DISTINCT FROM expected.checksum
) AND EXISTS (SELECT FROM jobs.schema_code WHERE checksum = $3)
