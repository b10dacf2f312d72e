-- The applied migrations, and whether the views and functions with the checksum $1 were applied.
SELECT coalesce(array_agg(version ORDER BY version), '{}') AS versions,
       coalesce(array_agg(checksum ORDER BY version), '{}') AS checksums,
       EXISTS (SELECT FROM jobs.schema_code WHERE checksum = $1) AS has_code
FROM jobs.migrations
