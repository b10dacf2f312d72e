-- Whether every migration ($1 versions, $2 checksums) and the set of functions ($3) of
-- this version has been applied. A newer database fits too: migrations only add.
SELECT NOT EXISTS (
    SELECT FROM unnest($1::integer[], $2::text[]) AS expected (version, checksum)
    LEFT JOIN jobs.schema_migrations m USING (version)
    WHERE m.checksum IS DISTINCT FROM expected.checksum
) AND EXISTS (SELECT FROM jobs.schema_code WHERE checksum = $3)
