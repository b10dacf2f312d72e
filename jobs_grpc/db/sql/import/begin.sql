-- Creates the table that receives the imported rows.
CREATE TEMPORARY TABLE jobs_import (
    line bigint NOT NULL, device_id text NOT NULL, group_id text, time_zone text, labels jsonb
) ON COMMIT DROP;
