-- The tables of the platform that has its own jobs: see docs/migration.md.

CREATE TABLE public.device_state (
    tenant_id text NOT NULL,
    device_id text NOT NULL,
    PRIMARY KEY (tenant_id, device_id)
);

CREATE TABLE public.device_group_members (
    tenant_id text NOT NULL,
    group_id  text NOT NULL,
    device_id text NOT NULL,
    PRIMARY KEY (tenant_id, group_id, device_id)
);

CREATE TABLE public.jobs (
    job_id           text NOT NULL,
    tenant_id        text NOT NULL,
    document_type    text NOT NULL,
    document_params  jsonb NOT NULL DEFAULT '{}',
    target_device_id text,
    target_group_id  text,
    target_all       boolean NOT NULL DEFAULT false,
    status           text NOT NULL DEFAULT 'IN_PROGRESS',
    expires_at       timestamptz,
    created_by       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, job_id)
);

CREATE TABLE public.job_executions (
    job_id           text NOT NULL,
    tenant_id        text NOT NULL,
    device_id        text NOT NULL,
    status           text NOT NULL DEFAULT 'QUEUED',
    status_details   jsonb,
    execution_number integer NOT NULL DEFAULT 1,
    queued_at        timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    last_updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, job_id, device_id)
);

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY '{device_state,device_group_members,jobs,job_executions}'::text[] LOOP
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', v_table);
        EXECUTE format('CREATE POLICY tenant ON public.%I'
                       ' USING (tenant_id = current_setting(''app.tenant_id'', true))', v_table);
    END LOOP;
END $$;

INSERT INTO public.device_state (tenant_id, device_id)
SELECT tenant_id, 'd' || number
FROM unnest('{acme,globex}'::text[]) AS tenant_id, generate_series(1, 10) AS number;

INSERT INTO public.device_group_members (tenant_id, group_id, device_id)
SELECT tenant_id, 'north', 'd' || number
FROM unnest('{acme,globex}'::text[]) AS tenant_id, generate_series(1, 6) AS number;

-- One job for each case, in both tenants, created a second apart.
INSERT INTO public.jobs
    (tenant_id, job_id, document_type, document_params, target_device_id, target_group_id,
     target_all, status, expires_at, created_by, created_at, updated_at)
SELECT tenant_id, job_id, 'update', '{"version": "2.1", "retries": 3}', device, target_group, target_all,
       status, created_at + make_interval(hours => hours) - interval '20 ms', 'olivia', created_at,
       CASE WHEN status = 'IN_PROGRESS' THEN created_at ELSE created_at + interval '1 hour' END
FROM unnest('{acme,globex}'::text[]) AS tenant_id
CROSS JOIN (VALUES
    ('all-statuses', NULL, NULL, true, 'IN_PROGRESS', NULL::integer, interval '3 hours'),
    ('one-device', 'd1', NULL, false, 'IN_PROGRESS', 24, interval '2 hours'),
    ('expired', NULL, 'north', false, 'IN_PROGRESS', 24, interval '2 days'),
    ('expired-running', NULL, 'north', false, 'IN_PROGRESS', 24, interval '3 days'),
    ('not-completed', NULL, 'north', false, 'IN_PROGRESS', 720, interval '4 days'),
    ('completed', NULL, 'north', false, 'COMPLETED', 24, interval '5 days'),
    ('canceled', NULL, 'north', false, 'CANCELED', 24, interval '6 days'),
    ('canceled-with-queued', NULL, 'north', false, 'CANCELED', 24, interval '7 days'),
    ('without-executions', NULL, 'north', false, 'IN_PROGRESS', 24, interval '8 days'),
    ('two-targets', 'd2', 'north', true, 'COMPLETED', NULL, interval '9 days')
) AS j (job_id, device, target_group, target_all, status, hours, age)
CROSS JOIN LATERAL (SELECT date_trunc('second', now()) - age AS created_at) t;

INSERT INTO public.job_executions
    (tenant_id, job_id, device_id, status, status_details, queued_at, started_at, last_updated_at)
SELECT j.tenant_id, j.job_id, e.device_id, e.status, e.details::jsonb, j.created_at,
       CASE WHEN e.started THEN j.created_at + interval '1 minute' END,
       j.created_at + CASE WHEN e.status = 'QUEUED' THEN interval '0' ELSE interval '2 minutes' END
FROM public.jobs j
JOIN (VALUES
    ('all-statuses', 'd1', 'QUEUED', false, NULL),
    ('all-statuses', 'd2', 'QUEUED', false, NULL),
    ('all-statuses', 'd3', 'IN_PROGRESS', true, '{"percent": 40}'),
    ('all-statuses', 'd4', 'SUCCEEDED', true, '{"percent": 100}'),
    ('all-statuses', 'd5', 'SUCCEEDED', true, NULL),
    ('all-statuses', 'd6', 'SUCCEEDED', true, 'null'),
    ('all-statuses', 'd7', 'FAILED', true, '{"error": "disk full"}'),
    ('all-statuses', 'd8', 'TIMED_OUT', true, NULL),
    ('all-statuses', 'd9', 'REJECTED', false, '{"reason": "battery low"}'),
    ('all-statuses', 'd10', 'FAILED', true, NULL),
    ('one-device', 'd1', 'QUEUED', false, NULL),
    ('expired', 'd1', 'QUEUED', false, NULL),
    ('expired', 'd2', 'QUEUED', false, NULL),
    ('expired', 'd3', 'SUCCEEDED', true, NULL),
    ('expired-running', 'd1', 'QUEUED', false, NULL),
    ('expired-running', 'd4', 'IN_PROGRESS', true, NULL),
    ('not-completed', 'd1', 'SUCCEEDED', true, NULL),
    ('not-completed', 'd2', 'FAILED', true, NULL),
    ('completed', 'd1', 'SUCCEEDED', true, NULL),
    ('completed', 'd2', 'TIMED_OUT', false, NULL),
    ('canceled', 'd1', 'REJECTED', false, '{"reason": "wrong group"}'),
    ('canceled', 'd2', 'REJECTED', false, '{"reason": "wrong group"}'),
    ('canceled', 'd3', 'REJECTED', true, '{"reason": "battery low"}'),
    ('canceled', 'd4', 'IN_PROGRESS', true, NULL),
    ('canceled', 'd5', 'SUCCEEDED', true, NULL),
    ('canceled-with-queued', 'd5', 'QUEUED', false, NULL),
    ('canceled-with-queued', 'd6', 'SUCCEEDED', true, NULL),
    ('two-targets', 'd2', 'SUCCEEDED', true, NULL)
) AS e (job_id, device_id, status, started, details) ON e.job_id = j.job_id;
