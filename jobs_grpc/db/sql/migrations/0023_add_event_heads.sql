-- Adds the last position of each tenant that has events. sequence_events locks its row; no transaction takes a job
-- lock after it.
CREATE TABLE jobs.event_heads (
    tenant_id       text COLLATE "C" NOT NULL,
    position        bigint NOT NULL,            -- of the last event
    purged_position bigint NOT NULL DEFAULT 0,  -- events up to it have been purged, or are kept for the history
    event_count     bigint NOT NULL DEFAULT 0,  -- rows in jobs.events
    PRIMARY KEY (tenant_id)
) WITH (fillfactor = 50);
ALTER TABLE jobs.event_heads ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON jobs.event_heads
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
