-- Adds the number of devices of each tenant: see change_device_count. `migrate` counts them after it has
-- replaced the functions, so that no registration is missed.
CREATE TABLE jobs.device_counts (
    tenant_id    text COLLATE "C" NOT NULL,
    device_count bigint NOT NULL,  -- rows of public.device_state
    PRIMARY KEY (tenant_id)
) WITH (fillfactor = 50);

ALTER TABLE jobs.device_counts ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON jobs.device_counts
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
