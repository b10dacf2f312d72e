-- Adds what this service stores about devices. The devices themselves are rows of public.device_state,
-- which can belong to the platform. A device without a row here has no labels and no time zone.
--
-- No index on labels: row-level security allows only leakproof operators as index conditions, and those
-- of jsonb are not. The fill factor leaves room for HOT updates of last_seen_at.
CREATE TABLE jobs.devices (
    tenant_id    text COLLATE "C" NOT NULL,
    device_id    text COLLATE "C" NOT NULL,
    labels       jsonb NOT NULL DEFAULT '{}',  -- an object of strings
    time_zone    text,                         -- an IANA name; NULL: unknown
    last_seen_at timestamptz,                  -- NULL: no time is stored
    PRIMARY KEY (tenant_id, device_id)
) WITH (fillfactor = 90);

ALTER TABLE jobs.devices ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON jobs.devices
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
