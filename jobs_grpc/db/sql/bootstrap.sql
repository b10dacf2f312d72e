-- What the migrations themselves need.

-- Not CREATE SCHEMA IF NOT EXISTS: that asks for the right to create even where it does
-- not, and an administrator may have made the schema for an owner without that right.
DO $$
BEGIN
    IF to_regnamespace('jobs') IS NULL THEN
        CREATE SCHEMA jobs;
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS jobs.schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Every set of functions and views this database has had; the newest is in force.
CREATE TABLE IF NOT EXISTS jobs.schema_code (
    checksum   text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
