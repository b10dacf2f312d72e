-- The tables of the FastAPI service. The reference design names the columns and keys; the foreign
-- key and the indexes are what its statements, the devices and the expiry need.

CREATE TABLE device_state (
    tenant_id text NOT NULL,
    device_id text NOT NULL,
    PRIMARY KEY (tenant_id, device_id)
);

CREATE TABLE jobs (
    job_id           text NOT NULL,
    tenant_id        text NOT NULL,
    document_type    text NOT NULL,
    document_params  jsonb NOT NULL DEFAULT '{}',
    status           text NOT NULL DEFAULT 'IN_PROGRESS'
                     CHECK (status IN ('IN_PROGRESS', 'COMPLETED', 'CANCELED')),
    target_device_id text,
    target_group_id  text,
    target_all       boolean NOT NULL DEFAULT false,
    expires_at       timestamptz,
    created_by       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, job_id)
);
CREATE INDEX jobs_tenant_status ON jobs (tenant_id, status);

CREATE TABLE job_executions (
    job_id           text NOT NULL,
    tenant_id        text NOT NULL,
    device_id        text NOT NULL,
    status           text NOT NULL DEFAULT 'QUEUED'
                     CHECK (status IN ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED',
                                       'TIMED_OUT', 'REJECTED')),
    status_details   jsonb,
    execution_number integer NOT NULL DEFAULT 1,
    queued_at        timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    last_updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, job_id, device_id),
    FOREIGN KEY (tenant_id, job_id) REFERENCES jobs (tenant_id, job_id) ON DELETE CASCADE
);
CREATE INDEX job_executions_device ON job_executions (tenant_id, device_id, status);
CREATE INDEX job_executions_job ON job_executions (tenant_id, job_id);

ALTER TABLE device_state ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE job_executions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON device_state USING (tenant_id = current_setting('app.tenant_id', true));
CREATE POLICY tenant ON jobs USING (tenant_id = current_setting('app.tenant_id', true));
CREATE POLICY tenant ON job_executions USING (tenant_id = current_setting('app.tenant_id', true));
