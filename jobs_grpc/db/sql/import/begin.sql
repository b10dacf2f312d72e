-- Creates the table that receives the imported rows.
CREATE TEMPORARY TABLE jobs_import (device_id text NOT NULL, group_id text) ON COMMIT DROP;
