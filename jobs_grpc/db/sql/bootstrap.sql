-- Creates the schema and the tables that record which migrations, views and functions were
-- applied, and who manages the device tables.

-- Not CREATE SCHEMA IF NOT EXISTS: it needs the CREATE privilege even if the schema exists, and an
-- administrator may have created the schema for an owner without that privilege.
DO $$
BEGIN
    IF to_regnamespace('jobs') IS NULL THEN
        CREATE SCHEMA jobs;
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS jobs.migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Every set of views and functions that was applied. The last one applied is the current one.
CREATE TABLE IF NOT EXISTS jobs.schema_code (
    checksum   text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row: see device_tables.py. The request role reads it.
CREATE TABLE IF NOT EXISTS jobs.device_tables (
    is_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_only_row),
    is_own      boolean NOT NULL  -- false: the platform manages the tables
);
