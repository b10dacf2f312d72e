-- Adds the facts of devices: what they report about themselves. A device without a row has reported none.
--
-- Not a column of jobs.devices, whose rows stay narrow for the updates of last_seen_at. The early vacuum and the fill
-- factor keep the table small although devices change their facts often: no index has the facts, so updates are HOT
-- while a page has room, also when a bridge updates all rows of a page in one transaction.
CREATE TABLE jobs.device_facts (
    tenant_id        text COLLATE "C" NOT NULL,
    device_id        text COLLATE "C" NOT NULL,
    facts            jsonb NOT NULL,        -- an object of strings
    facts_updated_at timestamptz NOT NULL,  -- the last change
    PRIMARY KEY (tenant_id, device_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05, fillfactor = 50);

ALTER TABLE jobs.device_facts ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON jobs.device_facts
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
