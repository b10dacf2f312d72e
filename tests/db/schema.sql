CREATE SCHEMA jobs;

CREATE TYPE jobs.execution_status AS ENUM (
    'QUEUED',
    'IN_PROGRESS',
    'SUCCEEDED',
    'FAILED',
    'TIMED_OUT',
    'REJECTED'
);

CREATE TYPE jobs.execution_change AS (
	n bigint,
	job_id text,
	device_id text,
	outcome text,
	previous_status jobs.execution_status,
	row_id tid,
	stage smallint,
	executions integer,
	execution_number integer,
	stored_status jobs.execution_status,
	failed_status jobs.execution_status,
	failed_code text,
	failed_at timestamp with time zone,
	retries integer,
	time_zone text,
	new_status jobs.execution_status,
	status_details jsonb,
	failure_code text,
	times_out_at timestamp with time zone,
	end_cause text,
	needs_retry boolean,
	not_before timestamp with time zone,
	is_expired boolean,
	has_rules boolean,
	execution_events boolean,
	reported_by text
);

CREATE TYPE jobs.job_status AS ENUM (
    'IN_PROGRESS',
    'COMPLETED',
    'CANCELED'
);

CREATE TYPE jobs.release AS (
	last_rank integer,
	base integer,
	rate integer,
	since timestamp with time zone,
	paused_at timestamp with time zone
);

CREATE TABLE jobs.job_progress (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    queued integer NOT NULL,
    in_progress integer DEFAULT 0 NOT NULL,
    succeeded integer DEFAULT 0 NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    timed_out integer DEFAULT 0 NOT NULL,
    rejected integer DEFAULT 0 NOT NULL,
    retries integer DEFAULT 0 NOT NULL,
    retried_devices integer DEFAULT 0 NOT NULL,
    retrying integer DEFAULT 0 NOT NULL,
    retrying_in_progress integer DEFAULT 0 NOT NULL,
    event_count integer DEFAULT 0 NOT NULL,
    has_expiry_event boolean DEFAULT false NOT NULL,
    CONSTRAINT job_progress_failed_check CHECK ((failed >= 0)),
    CONSTRAINT job_progress_in_progress_check CHECK ((in_progress >= 0)),
    CONSTRAINT job_progress_queued_check CHECK ((queued >= 0)),
    CONSTRAINT job_progress_rejected_check CHECK ((rejected >= 0)),
    CONSTRAINT job_progress_succeeded_check CHECK ((succeeded >= 0)),
    CONSTRAINT job_progress_timed_out_check CHECK ((timed_out >= 0))
)
WITH (fillfactor='50');

CREATE TABLE jobs.jobs (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    document_type text NOT NULL,
    document_params jsonb NOT NULL,
    target_device_id text,
    target_group_id text,
    target_all boolean NOT NULL,
    in_progress_timeout_minutes integer,
    expires_in_hours integer,
    expires_at timestamp with time zone,
    status jobs.job_status DEFAULT 'IN_PROGRESS'::jobs.job_status NOT NULL,
    completed_at timestamp with time zone,
    canceled_at timestamp with time zone,
    cancel_reason text,
    force_canceled boolean DEFAULT false NOT NULL,
    finalized boolean DEFAULT false NOT NULL,
    deleted_at timestamp with time zone,
    created_by text,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    paused_at timestamp with time zone,
    paused_by text,
    pause_reason text,
    revision integer DEFAULT 1 NOT NULL,
    has_failure_criteria boolean DEFAULT false NOT NULL,
    max_in_progress integer,
    open_stage smallint,
    release_end integer,
    release_base integer,
    release_rate integer,
    release_since timestamp with time zone,
    stage_due_at timestamp with time zone,
    awaiting_approval boolean DEFAULT false NOT NULL,
    pause_cause text,
    trip jsonb,
    request jsonb,
    labels jsonb,
    description text,
    target_selector text,
    target_device_count integer,
    target_failed_in jsonb,
    start_at timestamp with time zone,
    start_windows integer[],
    window_time_zone text,
    retry_policy jsonb,
    priority smallint DEFAULT 2 NOT NULL,
    execution_events boolean DEFAULT false NOT NULL,
    replaces_job_id text COLLATE pg_catalog."C",
    replaced_by_job_id text COLLATE pg_catalog."C",
    start_approval jsonb,
    is_continuous boolean DEFAULT false NOT NULL,
    joined_count integer,
    last_joined_at timestamp with time zone,
    CONSTRAINT jobs_cancel_reason_check CHECK (((canceled_at IS NULL) = (cancel_reason IS NULL))),
    CONSTRAINT jobs_canceled_at_check CHECK (((status = 'CANCELED'::jobs.job_status) = (canceled_at IS NOT NULL))),
    CONSTRAINT jobs_completed_at_check CHECK (((status = 'COMPLETED'::jobs.job_status) = (completed_at IS NOT NULL))),
    CONSTRAINT jobs_force_canceled_check CHECK (((canceled_at IS NOT NULL) OR (NOT force_canceled))),
    CONSTRAINT jobs_one_target_check CHECK (((num_nonnulls(target_device_id, target_group_id, target_selector, target_device_count, target_failed_in) + (target_all)::integer) = 1)),
    CONSTRAINT jobs_pause_check CHECK ((((paused_at IS NULL) = (pause_reason IS NULL)) AND ((paused_at IS NOT NULL) OR (paused_by IS NULL))))
);

CREATE VIEW jobs.jobs_with_release WITH (security_invoker='true') AS
 SELECT ROW(release_end, release_base, release_rate, release_since, paused_at)::jobs.release AS release,
    xmin AS row_version,
    tenant_id,
    job_id,
    document_type,
    document_params,
    target_device_id,
    target_group_id,
    target_all,
    in_progress_timeout_minutes,
    expires_in_hours,
    expires_at,
    status,
    completed_at,
    canceled_at,
    cancel_reason,
    force_canceled,
    finalized,
    deleted_at,
    created_by,
    created_at,
    updated_at,
    paused_at,
    paused_by,
    pause_reason,
    revision,
    has_failure_criteria,
    max_in_progress,
    open_stage,
    release_end,
    release_base,
    release_rate,
    release_since,
    stage_due_at,
    awaiting_approval,
    pause_cause,
    trip,
    request,
    labels,
    description,
    target_selector,
    target_device_count,
    target_failed_in,
    start_at,
    start_windows,
    window_time_zone,
    retry_policy,
    priority,
    execution_events,
    replaces_job_id,
    replaced_by_job_id,
    start_approval,
    is_continuous,
    joined_count,
    last_joined_at
   FROM jobs.jobs j;

CREATE VIEW jobs.job_states WITH (security_invoker='true') AS
 SELECT j.tenant_id,
    j.job_id,
    j.document_type,
    j.document_params,
    j.target_device_id,
    j.target_group_id,
    j.target_all,
    jobs.job_status_with_pause_at(j.status, j.expires_at, p.in_progress, j.paused_at, ((j.start_at IS NOT NULL) AND (j.start_at > jobs.read_time())), jobs.now()) AS status,
    j.expires_at,
    j.created_by,
    j.created_at,
        CASE
            WHEN (derived.status = j.status) THEN j.updated_at
            ELSE j.expires_at
        END AS updated_at,
    NULLIF(j.cancel_reason, ''::text) AS cancel_reason,
    (((((p.queued + p.in_progress) + p.succeeded) + p.failed) + p.timed_out) + p.rejected) AS total_executions,
        CASE
            WHEN (derived.queued_status = 'QUEUED'::jobs.execution_status) THEN (p.queued - rollout.held)
            ELSE 0
        END AS queued,
        CASE
            WHEN j.force_canceled THEN 0
            ELSE p.in_progress
        END AS in_progress,
    p.succeeded,
    p.failed,
    (p.timed_out +
        CASE
            WHEN (derived.queued_status = 'TIMED_OUT'::jobs.execution_status) THEN p.queued
            ELSE 0
        END) AS timed_out,
    ((p.rejected +
        CASE
            WHEN (derived.queued_status = 'REJECTED'::jobs.execution_status) THEN p.queued
            ELSE 0
        END) +
        CASE
            WHEN j.force_canceled THEN p.in_progress
            ELSE 0
        END) AS rejected,
        CASE
            WHEN (derived.status = j.status) THEN j.completed_at
            ELSE j.expires_at
        END AS completed_at,
    j.in_progress_timeout_minutes,
    j.status AS stored_status,
    j.paused_at,
    j.paused_by,
    j.pause_reason,
    j.revision,
    rollout.held,
        CASE
            WHEN (j.paused_at IS NOT NULL) THEN COALESCE(j.pause_cause, 'OPERATOR'::text)
            ELSE NULL::text
        END AS pause_cause,
    j.trip,
    ((j.release_end IS NOT NULL) OR j.has_failure_criteria) AS has_rollout_details,
    j.labels,
    j.description,
    j.target_selector,
    j.target_device_count,
    j.target_failed_in,
    j.start_at,
    j.start_windows,
        CASE
            WHEN (j.start_windows IS NULL) THEN ''::text
            ELSE COALESCE(j.window_time_zone, 'DEVICE'::text)
        END AS window_time_zone,
    j.retry_policy,
    j.priority,
        CASE
            WHEN (derived.queued_status = 'QUEUED'::jobs.execution_status) THEN p.retrying
            WHEN j.force_canceled THEN 0
            ELSE p.retrying_in_progress
        END AS retrying_count,
    jobs.exceeds_retry_budget((p.retried_devices)::bigint, (COALESCE(jobs.released_count_at(j.release, LEAST(jobs.read_time(), j.canceled_at)), (((((p.queued + p.in_progress) + p.succeeded) + p.failed) + p.timed_out) + p.rejected)))::bigint) AS retry_budget_exhausted,
    j.execution_events,
    j.replaces_job_id,
    j.replaced_by_job_id,
    j.start_approval,
    (j.is_continuous AND (derived.queued_status = 'QUEUED'::jobs.execution_status)) AS continuous,
    j.joined_count,
        CASE
            WHEN (j.joined_count IS NOT NULL) THEN jobs.joins_details(j.tenant_id, j.job_id)
            ELSE NULL::json
        END AS joins
   FROM (((jobs.jobs_with_release j
     JOIN jobs.job_progress p ON (((p.tenant_id = j.tenant_id) AND (p.job_id = j.job_id))))
     CROSS JOIN LATERAL ( SELECT jobs.job_status_at(j.status, j.expires_at, p.in_progress, jobs.now()) AS status,
            jobs.queued_status_at(j.canceled_at, j.expires_at, jobs.now()) AS queued_status
         OFFSET 0) derived)
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN ((j.release_since IS NULL) OR (p.queued = 0) OR (derived.queued_status <> 'QUEUED'::jobs.execution_status)) THEN 0
                    WHEN (j.release_end IS NULL) THEN
                    CASE
                        WHEN (LEAST(jobs.read_time(), j.paused_at) < j.release_since) THEN p.queued
                        ELSE 0
                    END
                    ELSE ( SELECT (sum(stages.held))::integer AS sum
                       FROM unnest(jobs.held_executions(j.tenant_id, j.job_id, jobs.released_count_at(j.release, jobs.read_time()))) stages(held))
                END AS held
         OFFSET 0) rollout)
  WHERE (j.deleted_at IS NULL);

CREATE VIEW jobs.job_details WITH (security_invoker='true') AS
 SELECT
        CASE
            WHEN has_rollout_details THEN jobs.rollout_details(tenant_id, job_id)
            ELSE NULL::json
        END AS rollout_details,
    tenant_id,
    job_id,
    document_type,
    document_params,
    target_device_id,
    target_group_id,
    target_all,
    status,
    expires_at,
    created_by,
    created_at,
    updated_at,
    cancel_reason,
    total_executions,
    queued,
    in_progress,
    succeeded,
    failed,
    timed_out,
    rejected,
    completed_at,
    in_progress_timeout_minutes,
    stored_status,
    paused_at,
    paused_by,
    pause_reason,
    revision,
    held,
    pause_cause,
    trip,
    has_rollout_details,
    labels,
    description,
    target_selector,
    target_device_count,
    target_failed_in,
    start_at,
    start_windows,
    window_time_zone,
    retry_policy,
    priority,
    retrying_count,
    retry_budget_exhausted,
    execution_events,
    replaces_job_id,
    replaced_by_job_id,
    start_approval,
    continuous,
    joined_count,
    joins
   FROM jobs.job_states s;

CREATE TABLE jobs.webhooks (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    webhook_id text NOT NULL COLLATE pg_catalog."C",
    url text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    types text[],
    created_at timestamp with time zone NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    disabled_cause text,
    "position" bigint NOT NULL,
    previous_position bigint NOT NULL,
    purged_position bigint DEFAULT 0 NOT NULL,
    due_at timestamp with time zone,
    claim_id uuid,
    last_attempt_at timestamp with time zone,
    last_success_at timestamp with time zone,
    last_http_status integer DEFAULT 0 NOT NULL,
    last_error text,
    failure_count integer DEFAULT 0 NOT NULL,
    first_failure_at timestamp with time zone,
    is_unproven boolean DEFAULT true NOT NULL,
    secret_number integer DEFAULT 1 NOT NULL,
    key_id text NOT NULL,
    rotated_at timestamp with time zone,
    previous_key_id text,
    last_test_at timestamp with time zone,
    verified_at timestamp with time zone,
    replay_position bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE jobs.execution_attempts (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    device_id text NOT NULL COLLATE pg_catalog."C",
    execution_number integer NOT NULL,
    version integer NOT NULL,
    status jobs.execution_status NOT NULL,
    queued_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    last_updated_at timestamp with time zone NOT NULL,
    status_details jsonb,
    failure_code text COLLATE pg_catalog."C",
    end_cause text,
    reported_by text
);

CREATE TABLE jobs.events (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    "position" bigint NOT NULL,
    job_id text NOT NULL COLLATE pg_catalog."C",
    type text NOT NULL COLLATE pg_catalog."C",
    occurred_at timestamp with time zone NOT NULL,
    status text NOT NULL,
    counts json NOT NULL,
    user_id text,
    details jsonb
);

CREATE TABLE jobs.job_executions (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    device_id text NOT NULL COLLATE pg_catalog."C",
    status jobs.execution_status DEFAULT 'QUEUED'::jobs.execution_status NOT NULL,
    execution_number integer DEFAULT 1 NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    canceled_by_operator boolean DEFAULT false NOT NULL,
    queued_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    times_out_at timestamp with time zone,
    last_updated_at timestamp with time zone NOT NULL,
    status_details jsonb,
    failure_code text COLLATE pg_catalog."C",
    rank integer,
    stage smallint,
    end_cause text,
    queue_order smallint DEFAULT 0 NOT NULL,
    time_zone text,
    not_before timestamp with time zone,
    retries integer DEFAULT 0 NOT NULL,
    failed_status jobs.execution_status,
    failed_code text COLLATE pg_catalog."C",
    failed_at timestamp with time zone,
    reported_by text,
    ended_number integer
);

CREATE VIEW jobs.execution_states WITH (security_invoker='true') AS
 SELECT e.tenant_id,
    e.job_id,
    e.device_id,
        CASE
            WHEN ((derived.status = 'QUEUED'::jobs.execution_status) AND jobs.is_held(e.rank, jobs.released_count_at(j.release, jobs.read_time()))) THEN 'HELD'::text
            ELSE (derived.status)::text
        END AS status,
        CASE
            WHEN (derived.status = e.status) THEN e.status_details
            ELSE jobs.final_status_details(derived.status, j.cancel_reason)
        END AS status_details,
    e.execution_number,
    e.queued_at,
    e.started_at,
        CASE
            WHEN (derived.status = e.status) THEN e.last_updated_at
            WHEN (derived.status = 'REJECTED'::jobs.execution_status) THEN j.canceled_at
            ELSE j.expires_at
        END AS last_updated_at,
    e.version,
    e.status AS stored_status,
    j.document_type,
    j.document_params,
    j.expires_at,
        CASE
            WHEN (derived.status = 'IN_PROGRESS'::jobs.execution_status) THEN e.times_out_at
            ELSE NULL::timestamp with time zone
        END AS times_out_at,
    e.failure_code,
    e.stage,
    jobs.end_cause(derived.status, e.failure_code, e.end_cause, ((derived.status <> e.status) OR (e.last_updated_at = j.canceled_at))) AS end_cause,
    e.queue_order,
        CASE
            WHEN (derived.status = 'QUEUED'::jobs.execution_status) THEN e.not_before
            ELSE NULL::timestamp with time zone
        END AS not_before,
        CASE
            WHEN ((j.start_windows IS NOT NULL) AND (j.window_time_zone IS NULL)) THEN COALESCE(e.time_zone, 'UTC'::text)
            ELSE NULL::text
        END AS time_zone,
    ((derived.status = 'IN_PROGRESS'::jobs.execution_status) AND (j.canceled_at IS NOT NULL)) AS cancel_requested,
    e.reported_by
   FROM ((jobs.job_executions e
     JOIN jobs.jobs_with_release j ON (((j.tenant_id = e.tenant_id) AND (j.job_id = e.job_id))))
     CROSS JOIN LATERAL ( SELECT jobs.execution_status_at(e.status, j.canceled_at, j.force_canceled, j.expires_at, jobs.now()) AS status
         OFFSET 0) derived)
  WHERE (j.deleted_at IS NULL);

CREATE VIEW jobs.execution_page WITH (security_invoker='true') AS
 SELECT NULL::text[] AS device_ids,
    NULL::text[] AS statuses,
    NULL::jsonb[] AS status_details,
    NULL::timestamp with time zone[] AS queued_ats,
    NULL::timestamp with time zone[] AS started_ats,
    NULL::timestamp with time zone[] AS last_updated_ats,
    NULL::integer[] AS execution_numbers,
    NULL::integer[] AS versions,
    NULL::timestamp with time zone[] AS times_out_ats,
    NULL::text[] AS failure_codes,
    NULL::smallint[] AS stages,
    NULL::text[] AS end_causes,
    NULL::timestamp with time zone[] AS not_befores,
    NULL::text[] AS time_zones,
    NULL::text[] AS reported_bys,
    NULL::timestamp with time zone AS job_created_at
  WHERE false;

CREATE VIEW jobs.job_page WITH (security_invoker='true') AS
 SELECT p.device_ids,
    p.statuses,
    p.status_details,
    p.queued_ats,
    p.started_ats,
    p.last_updated_ats,
    p.execution_numbers,
    p.versions,
    p.times_out_ats,
    p.failure_codes,
    p.stages,
    p.end_causes,
    p.not_befores,
    p.time_zones,
    p.reported_bys,
    p.job_created_at,
    d.rollout_details,
    d.tenant_id,
    d.job_id,
    d.document_type,
    d.document_params,
    d.target_device_id,
    d.target_group_id,
    d.target_all,
    d.status,
    d.expires_at,
    d.created_by,
    d.created_at,
    d.updated_at,
    d.cancel_reason,
    d.total_executions,
    d.queued,
    d.in_progress,
    d.succeeded,
    d.failed,
    d.timed_out,
    d.rejected,
    d.completed_at,
    d.in_progress_timeout_minutes,
    d.stored_status,
    d.paused_at,
    d.paused_by,
    d.pause_reason,
    d.revision,
    d.held,
    d.pause_cause,
    d.trip,
    d.has_rollout_details,
    d.labels,
    d.description,
    d.target_selector,
    d.target_device_count,
    d.target_failed_in,
    d.start_at,
    d.start_windows,
    d.window_time_zone,
    d.retry_policy,
    d.priority,
    d.retrying_count,
    d.retry_budget_exhausted,
    d.execution_events,
    d.replaces_job_id,
    d.replaced_by_job_id,
    d.start_approval,
    d.continuous,
    d.joined_count,
    d.joins,
    NULL::json AS window_state
   FROM (jobs.execution_page p
     CROSS JOIN jobs.job_details d);

CREATE TABLE jobs.continuous_jobs (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    terms jsonb NOT NULL,
    fact_keys text[] NOT NULL,
    max_joins_per_hour integer,
    hour_started_at timestamp with time zone,
    hour_limit integer,
    hour_joins integer DEFAULT 0 NOT NULL,
    is_stopped boolean DEFAULT false NOT NULL,
    is_full boolean DEFAULT false NOT NULL,
    scan_after text COLLATE pg_catalog."C",
    scan_due_at timestamp with time zone NOT NULL,
    rescan_at timestamp with time zone,
    is_behind boolean DEFAULT false NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE jobs.device_changes (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    noted_at timestamp with time zone NOT NULL,
    change_id uuid DEFAULT gen_random_uuid() NOT NULL,
    device_ids text[],
    device_count integer NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_insert_scale_factor='0', autovacuum_vacuum_insert_threshold='1000');

CREATE TABLE jobs.device_counts (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    device_count bigint NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE jobs.device_facts (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    device_id text NOT NULL COLLATE pg_catalog."C",
    facts jsonb NOT NULL,
    facts_updated_at timestamp with time zone NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.05', fillfactor='50');

CREATE TABLE jobs.device_tables (
    is_only_row boolean DEFAULT true NOT NULL,
    is_own boolean NOT NULL,
    CONSTRAINT device_tables_is_only_row_check CHECK (is_only_row)
);

CREATE TABLE jobs.devices (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    device_id text NOT NULL COLLATE pg_catalog."C",
    labels jsonb DEFAULT '{}'::jsonb NOT NULL,
    time_zone text,
    last_seen_at timestamp with time zone
)
WITH (fillfactor='90');

CREATE TABLE jobs.event_heads (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    "position" bigint NOT NULL,
    purged_position bigint DEFAULT 0 NOT NULL,
    event_count bigint DEFAULT 0 NOT NULL,
    restarts_until timestamp with time zone
)
WITH (fillfactor='50');

CREATE TABLE jobs.event_queue (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    number integer NOT NULL,
    type text NOT NULL COLLATE pg_catalog."C",
    occurred_at timestamp with time zone NOT NULL,
    status text NOT NULL,
    counts integer[] NOT NULL,
    user_id text,
    details jsonb
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_insert_scale_factor='0', autovacuum_vacuum_insert_threshold='1000');

CREATE TABLE jobs.job_criterion_counts (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    criterion smallint NOT NULL,
    stage smallint NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    finished_before integer DEFAULT 0 NOT NULL,
    CONSTRAINT job_criterion_counts_failures_check CHECK ((failures >= 0)),
    CONSTRAINT job_criterion_counts_finished_before_check CHECK ((finished_before >= 0))
)
WITH (fillfactor='50');

CREATE TABLE jobs.job_failure_criteria (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    criterion smallint NOT NULL,
    statuses jobs.execution_status[] NOT NULL,
    failure_codes text[] NOT NULL COLLATE pg_catalog."C",
    percent integer,
    count integer,
    basis text NOT NULL,
    min_finished integer NOT NULL,
    scope text NOT NULL,
    action text NOT NULL,
    counts_since timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL
);

CREATE TABLE jobs.job_failures (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    status jobs.execution_status NOT NULL,
    failure_code text NOT NULL COLLATE pg_catalog."C",
    executions integer NOT NULL,
    CONSTRAINT job_failures_executions_check CHECK ((executions >= 0))
)
WITH (fillfactor='50');

CREATE VIEW jobs.job_fingerprints WITH (security_invoker='true') AS
 SELECT j.tenant_id,
    j.job_id,
    jobs.text_fingerprint((((((((j.row_version)::text || ' '::text) || (p.version)::text) ||
        CASE
            WHEN jobs.is_expired_at(j.expires_at, jobs.now()) THEN ' expired '::text
            ELSE ' '::text
        END) ||
        CASE
            WHEN (j.start_at > jobs.now()) THEN 'scheduled '::text
            ELSE ''::text
        END) || COALESCE((jobs.released_count_at(j.release, jobs.now()))::text, ''::text)) ||
        CASE
            WHEN j.is_continuous THEN COALESCE(( SELECT format(' %s %s %s'::text, c.is_stopped, c.is_full, c.is_behind) AS format
               FROM jobs.continuous_jobs c
              WHERE ((c.tenant_id = j.tenant_id) AND (c.job_id = j.job_id))), ''::text)
            ELSE ''::text
        END)) AS fingerprint
   FROM (jobs.jobs_with_release j
     CROSS JOIN LATERAL ( SELECT DISTINCT ON (p_1.tenant_id, p_1.job_id) p_1.tenant_id,
            p_1.xmin AS version
           FROM jobs.job_progress p_1
          WHERE ((p_1.tenant_id = j.tenant_id) AND (p_1.job_id = j.job_id))) p)
  WHERE ((p.tenant_id = j.tenant_id) AND (j.deleted_at IS NULL));

CREATE TABLE jobs.job_labels (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    label text NOT NULL COLLATE pg_catalog."C",
    created_at timestamp with time zone NOT NULL,
    job_id text NOT NULL COLLATE pg_catalog."C"
);

CREATE TABLE jobs.job_stages (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    job_id text NOT NULL COLLATE pg_catalog."C",
    stage smallint NOT NULL,
    display_name text NOT NULL,
    device_count integer,
    percent integer,
    group_id text COLLATE pg_catalog."C",
    first_rank integer NOT NULL,
    last_rank integer NOT NULL,
    releases_per_minute integer,
    min_succeeded_percent integer,
    bake_seconds integer DEFAULT 0 NOT NULL,
    advance_after_seconds integer,
    require_approval boolean DEFAULT false NOT NULL,
    allow_self_approval boolean DEFAULT false NOT NULL,
    opened_at timestamp with time zone,
    active_since timestamp with time zone,
    gate_met_since timestamp with time zone,
    gate_failure_accepted boolean DEFAULT false NOT NULL,
    approved_at timestamp with time zone,
    approved_by text,
    approval_comment text,
    queued integer NOT NULL,
    in_progress integer DEFAULT 0 NOT NULL,
    succeeded integer DEFAULT 0 NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    timed_out integer DEFAULT 0 NOT NULL,
    rejected integer DEFAULT 0 NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    allow_empty boolean DEFAULT false NOT NULL,
    selector text,
    retrying integer DEFAULT 0 NOT NULL,
    retrying_in_progress integer DEFAULT 0 NOT NULL,
    CONSTRAINT job_stages_failed_check CHECK ((failed >= 0)),
    CONSTRAINT job_stages_failures_check CHECK ((failures >= 0)),
    CONSTRAINT job_stages_in_progress_check CHECK ((in_progress >= 0)),
    CONSTRAINT job_stages_queued_check CHECK ((queued >= 0)),
    CONSTRAINT job_stages_rejected_check CHECK ((rejected >= 0)),
    CONSTRAINT job_stages_succeeded_check CHECK ((succeeded >= 0)),
    CONSTRAINT job_stages_timed_out_check CHECK ((timed_out >= 0))
)
WITH (fillfactor='50');

CREATE TABLE jobs.migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE VIEW jobs.pending_executions WITH (security_invoker='true') AS
 SELECT e.tenant_id,
    e.device_id,
    (e.started_at IS NULL) AS is_queued,
    e.queue_order,
    e.queued_at,
    e.job_id,
    (e.status)::text AS status,
    e.status_details,
    e.execution_number,
    e.version,
    e.started_at,
    e.last_updated_at,
        CASE
            WHEN (e.status = 'IN_PROGRESS'::jobs.execution_status) THEN e.times_out_at
            ELSE NULL::timestamp with time zone
        END AS times_out_at,
    e.failure_code,
    j.document_type,
    j.expires_at,
    COALESCE((p.in_progress < j.max_in_progress), true) AS has_slot,
    (((((((e.job_id || ' '::text) || (e.version)::text) || ' '::text) || (jobs.pg_micros(e.queued_at))::text) || COALESCE((' '::text || (jobs.pg_micros(j.expires_at))::text), ''::text)) ||
        CASE
            WHEN (j.canceled_at IS NULL) THEN ''::text
            ELSE ' canceled'::text
        END) ||
        CASE
            WHEN (p.in_progress IS NULL) THEN ''::text
            WHEN (p.in_progress >= j.max_in_progress) THEN ' full'::text
            ELSE (((' '::text || (j.max_in_progress)::text) || '/'::text) || (((((p.succeeded + p.failed) + p.timed_out) + p.rejected) + p.retries))::text)
        END) AS state,
    e.not_before,
    j.start_windows,
    COALESCE(j.window_time_zone, e.time_zone, 'UTC'::text) AS time_zone,
    ((e.status = 'QUEUED'::jobs.execution_status) AND jobs.is_waiting_at(e.not_before, j.start_windows, COALESCE(j.window_time_zone, e.time_zone, 'UTC'::text), jobs.now())) AS is_waiting,
    ((e.status = 'QUEUED'::jobs.execution_status) AND jobs.is_waiting_at(e.not_before, j.start_windows, COALESCE(j.window_time_zone, e.time_zone, 'UTC'::text), jobs.now(), jobs.opening_delay(e.device_id))) AS is_waiting_in_watch,
    e.stage,
    j.document_params,
    j.window_time_zone,
    (j.canceled_at IS NOT NULL) AS cancel_requested
   FROM ((jobs.job_executions e
     CROSS JOIN LATERAL ( SELECT DISTINCT ON (j_1.tenant_id, j_1.job_id) j_1.tenant_id,
            j_1.document_type,
            j_1.document_params,
            j_1.canceled_at,
            j_1.force_canceled,
            j_1.expires_at,
            j_1.paused_at,
            j_1.deleted_at,
            j_1.max_in_progress,
            j_1.start_windows,
            j_1.window_time_zone,
            jobs.released_count_at(j_1.release, jobs.now()) AS released
           FROM jobs.jobs_with_release j_1
          WHERE ((j_1.tenant_id = e.tenant_id) AND (j_1.job_id = e.job_id))) j)
     LEFT JOIN LATERAL ( SELECT DISTINCT ON (p_1.tenant_id, p_1.job_id) p_1.tenant_id,
            p_1.in_progress,
            p_1.succeeded,
            p_1.failed,
            p_1.timed_out,
            p_1.rejected,
            p_1.retries
           FROM jobs.job_progress p_1
          WHERE ((p_1.tenant_id = e.tenant_id) AND (p_1.job_id = e.job_id) AND (j.max_in_progress IS NOT NULL) AND (e.status = 'QUEUED'::jobs.execution_status))) p ON ((p.tenant_id = e.tenant_id)))
  WHERE ((j.tenant_id = e.tenant_id) AND (
        CASE
            WHEN (e.end_cause IS NULL) THEN 0
            ELSE 1
        END = 0) AND (e.status = ANY (ARRAY['QUEUED'::jobs.execution_status, 'IN_PROGRESS'::jobs.execution_status])) AND (j.deleted_at IS NULL) AND (jobs.execution_status_at(e.status, j.canceled_at, j.force_canceled, j.expires_at, jobs.now()) = ANY (ARRAY['QUEUED'::jobs.execution_status, 'IN_PROGRESS'::jobs.execution_status])) AND ((e.status = 'IN_PROGRESS'::jobs.execution_status) OR ((j.paused_at IS NULL) AND (NOT jobs.is_held(e.rank, j.released)))));

CREATE TABLE jobs.schema_code (
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE public.device_group_members (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    group_id text NOT NULL COLLATE pg_catalog."C",
    device_id text NOT NULL COLLATE pg_catalog."C"
);

CREATE TABLE public.device_state (
    tenant_id text NOT NULL COLLATE pg_catalog."C",
    device_id text NOT NULL COLLATE pg_catalog."C"
);

ALTER TABLE ONLY jobs.continuous_jobs
    ADD CONSTRAINT continuous_jobs_pkey PRIMARY KEY (tenant_id, job_id);

ALTER TABLE ONLY jobs.device_changes
    ADD CONSTRAINT device_changes_pkey PRIMARY KEY (tenant_id, noted_at, change_id);

ALTER TABLE ONLY jobs.device_counts
    ADD CONSTRAINT device_counts_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY jobs.device_facts
    ADD CONSTRAINT device_facts_pkey PRIMARY KEY (tenant_id, device_id);

ALTER TABLE ONLY jobs.device_tables
    ADD CONSTRAINT device_tables_pkey PRIMARY KEY (is_only_row);

ALTER TABLE ONLY jobs.devices
    ADD CONSTRAINT devices_pkey PRIMARY KEY (tenant_id, device_id);

ALTER TABLE ONLY jobs.event_heads
    ADD CONSTRAINT event_heads_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY jobs.event_queue
    ADD CONSTRAINT event_queue_pkey PRIMARY KEY (tenant_id, job_id, number);

ALTER TABLE ONLY jobs.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (tenant_id, "position");

ALTER TABLE ONLY jobs.execution_attempts
    ADD CONSTRAINT execution_attempts_pkey PRIMARY KEY (tenant_id, job_id, device_id, execution_number);

ALTER TABLE ONLY jobs.job_criterion_counts
    ADD CONSTRAINT job_criterion_counts_pkey PRIMARY KEY (tenant_id, job_id, criterion, stage);

ALTER TABLE ONLY jobs.job_executions
    ADD CONSTRAINT job_executions_pkey PRIMARY KEY (tenant_id, job_id, device_id);

ALTER TABLE ONLY jobs.job_failure_criteria
    ADD CONSTRAINT job_failure_criteria_pkey PRIMARY KEY (tenant_id, job_id, criterion);

ALTER TABLE ONLY jobs.job_failures
    ADD CONSTRAINT job_failures_pkey PRIMARY KEY (tenant_id, job_id, status, failure_code);

ALTER TABLE ONLY jobs.job_labels
    ADD CONSTRAINT job_labels_pkey PRIMARY KEY (tenant_id, label, created_at, job_id);

ALTER TABLE ONLY jobs.job_progress
    ADD CONSTRAINT job_progress_pkey PRIMARY KEY (tenant_id, job_id);

ALTER TABLE ONLY jobs.job_stages
    ADD CONSTRAINT job_stages_pkey PRIMARY KEY (tenant_id, job_id, stage);

ALTER TABLE ONLY jobs.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (tenant_id, job_id);

ALTER TABLE ONLY jobs.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY jobs.schema_code
    ADD CONSTRAINT schema_code_pkey PRIMARY KEY (checksum);

ALTER TABLE ONLY jobs.webhooks
    ADD CONSTRAINT webhooks_pkey PRIMARY KEY (tenant_id, webhook_id);

ALTER TABLE ONLY public.device_group_members
    ADD CONSTRAINT device_group_members_pkey PRIMARY KEY (tenant_id, group_id, device_id);

ALTER TABLE ONLY public.device_state
    ADD CONSTRAINT device_state_pkey PRIMARY KEY (tenant_id, device_id);

CREATE INDEX continuous_jobs_by_scan_due_at ON jobs.continuous_jobs USING btree (scan_due_at);

CREATE INDEX created_events_by_job ON jobs.events USING btree (tenant_id, job_id, "position") WHERE (type = 'job.created'::text);

CREATE INDEX events_by_job ON jobs.events USING btree (tenant_id, job_id, "position");

CREATE INDEX job_executions_by_failure_code ON jobs.job_executions USING btree (tenant_id, job_id, failure_code, device_id) WHERE (failure_code IS NOT NULL);

CREATE INDEX job_executions_by_times_out_at ON jobs.job_executions USING btree (times_out_at) WHERE ((status = 'IN_PROGRESS'::jobs.execution_status) AND (times_out_at IS NOT NULL));

CREATE INDEX job_executions_failed ON jobs.job_executions USING btree (tenant_id, job_id, device_id) WHERE (status = 'FAILED'::jobs.execution_status);

CREATE INDEX job_executions_finished_unstarted_by_rank ON jobs.job_executions USING btree (tenant_id, job_id, rank) WHERE ((rank IS NOT NULL) AND (started_at IS NULL) AND (status = ANY (ARRAY['TIMED_OUT'::jobs.execution_status, 'REJECTED'::jobs.execution_status])));

CREATE INDEX job_executions_newest_first ON jobs.job_executions USING btree (tenant_id, device_id, queued_at DESC, job_id DESC) WHERE (queued_at > '-infinity'::timestamp with time zone);

CREATE INDEX job_executions_queue ON jobs.job_executions USING btree (tenant_id, device_id, (
CASE
    WHEN (end_cause IS NULL) THEN 0
    ELSE 1
END), ((started_at IS NULL)), queue_order, queued_at, job_id) WHERE ((status = ANY (ARRAY['QUEUED'::jobs.execution_status, 'IN_PROGRESS'::jobs.execution_status])) OR (ended_number IS NOT NULL));

CREATE INDEX job_executions_rejected ON jobs.job_executions USING btree (tenant_id, job_id, device_id) WHERE (status = 'REJECTED'::jobs.execution_status);

CREATE INDEX job_executions_timed_out ON jobs.job_executions USING btree (tenant_id, job_id, device_id) WHERE (status = 'TIMED_OUT'::jobs.execution_status);

CREATE INDEX job_progress_by_retrying ON jobs.job_progress USING btree (retrying) WHERE (retrying > 0);

CREATE INDEX jobs_by_deleted_at ON jobs.jobs USING btree (deleted_at) WHERE (deleted_at IS NOT NULL);

CREATE INDEX jobs_by_stage_due_at ON jobs.jobs USING btree (stage_due_at) WHERE ((stage_due_at IS NOT NULL) AND (paused_at IS NULL) AND (status = 'IN_PROGRESS'::jobs.job_status) AND (deleted_at IS NULL));

CREATE INDEX jobs_by_start_at ON jobs.jobs USING btree (tenant_id, start_at) WHERE ((start_at IS NOT NULL) AND (deleted_at IS NULL));

CREATE INDEX jobs_finished_by_updated_at ON jobs.jobs USING btree (updated_at) WHERE ((status <> 'IN_PROGRESS'::jobs.job_status) AND (deleted_at IS NULL));

CREATE INDEX jobs_in_progress_by_expires_at ON jobs.jobs USING btree (tenant_id, expires_at) WHERE ((status = 'IN_PROGRESS'::jobs.job_status) AND (deleted_at IS NULL));

CREATE INDEX jobs_newest_first ON jobs.jobs USING btree (tenant_id, (
CASE
    WHEN (completed_at IS NOT NULL) THEN 1
    WHEN (canceled_at IS NOT NULL) THEN 2
    ELSE 0
END), created_at DESC, job_id DESC) WHERE ((created_at > '-infinity'::timestamp with time zone) AND (deleted_at IS NULL));

CREATE INDEX jobs_newest_first_awaiting_approval ON jobs.jobs USING btree (tenant_id, created_at DESC, job_id DESC) WHERE ((awaiting_approval OR (start_approval = '{}'::jsonb)) AND (status = 'IN_PROGRESS'::jobs.job_status) AND (deleted_at IS NULL));

CREATE INDEX jobs_newest_first_by_created_by ON jobs.jobs USING btree (tenant_id, created_by, (
CASE
    WHEN (completed_at IS NOT NULL) THEN 1
    WHEN (canceled_at IS NOT NULL) THEN 2
    ELSE 0
END), created_at DESC, job_id DESC) WHERE ((created_by IS NOT NULL) AND (deleted_at IS NULL));

CREATE INDEX jobs_newest_first_by_document_type ON jobs.jobs USING btree (tenant_id, document_type, (
CASE
    WHEN (completed_at IS NOT NULL) THEN 1
    WHEN (canceled_at IS NOT NULL) THEN 2
    ELSE 0
END), created_at DESC, job_id DESC) WHERE ((document_type IS NOT NULL) AND (deleted_at IS NULL));

CREATE INDEX jobs_newest_first_by_target_device ON jobs.jobs USING btree (tenant_id, target_device_id, (
CASE
    WHEN (completed_at IS NOT NULL) THEN 1
    WHEN (canceled_at IS NOT NULL) THEN 2
    ELSE 0
END), created_at DESC, job_id DESC) WHERE ((target_device_id IS NOT NULL) AND (deleted_at IS NULL));

CREATE INDEX jobs_newest_first_by_target_group ON jobs.jobs USING btree (tenant_id, target_group_id, (
CASE
    WHEN (completed_at IS NOT NULL) THEN 1
    WHEN (canceled_at IS NOT NULL) THEN 2
    ELSE 0
END), created_at DESC, job_id DESC) WHERE ((target_group_id IS NOT NULL) AND (deleted_at IS NULL));

CREATE INDEX jobs_newest_first_of_target_all ON jobs.jobs USING btree (tenant_id, (
CASE
    WHEN (completed_at IS NOT NULL) THEN 1
    WHEN (canceled_at IS NOT NULL) THEN 2
    ELSE 0
END), created_at DESC, job_id DESC) WHERE (target_all AND (deleted_at IS NULL));

CREATE INDEX jobs_of_all_tenants_by_start_at ON jobs.jobs USING btree (start_at) WHERE ((start_at IS NOT NULL) AND (status = 'IN_PROGRESS'::jobs.job_status) AND (deleted_at IS NULL));

CREATE INDEX jobs_to_finalize ON jobs.jobs USING btree (COALESCE(canceled_at, expires_at)) WHERE ((NOT finalized) AND (deleted_at IS NULL) AND (COALESCE(canceled_at, expires_at) IS NOT NULL));

CREATE INDEX jobs_tripped_by_canceled_at ON jobs.jobs USING btree (canceled_at) WHERE ((trip IS NOT NULL) AND (status = 'CANCELED'::jobs.job_status) AND (deleted_at IS NULL));

CREATE INDEX jobs_waiting_by_pause_cause ON jobs.jobs USING btree (pause_cause) WHERE ((awaiting_approval OR (pause_cause IS NOT NULL)) AND (status = 'IN_PROGRESS'::jobs.job_status) AND (deleted_at IS NULL));

CREATE INDEX webhooks_by_due_at ON jobs.webhooks USING btree (is_unproven, due_at) WHERE (due_at IS NOT NULL);

CREATE INDEX webhooks_by_tenant ON jobs.webhooks USING btree (is_unproven, tenant_id, due_at) WHERE (due_at IS NOT NULL);

CREATE INDEX device_group_members_by_device ON public.device_group_members USING btree (tenant_id, device_id);

ALTER TABLE jobs.continuous_jobs ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.device_changes ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.device_counts ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.device_facts ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.devices ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.event_heads ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.event_queue ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.events ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.execution_attempts ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.job_criterion_counts ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.job_executions ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.job_failure_criteria ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.job_failures ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.job_labels ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.job_progress ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.job_stages ENABLE ROW LEVEL SECURITY;

ALTER TABLE jobs.jobs ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON jobs.continuous_jobs USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.device_changes USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.device_counts USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.device_facts USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.devices USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.event_heads USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.event_queue USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.events USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.execution_attempts USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.job_criterion_counts USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.job_executions USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.job_failure_criteria USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.job_failures USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.job_labels USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.job_progress USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.job_stages USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.jobs USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON jobs.webhooks USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

ALTER TABLE jobs.webhooks ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.device_group_members ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.device_state ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON public.device_group_members USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));

CREATE POLICY tenant_isolation ON public.device_state USING ((tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text)));
