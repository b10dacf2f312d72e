-- Creates a job and an execution for each targeted device, and cancels the job that it replaces. If the
-- same request, of any user, created the job before, changes nothing and returns the same result. With
-- p_validate_only, checks the request and returns what it would do, but writes nothing.
--
-- Raises DEVICE_NOT_FOUND, DEVICES_NOT_FOUND, JOB_NOT_FOUND, GROUP_EMPTY, TENANT_EMPTY, TARGET_EMPTY,
-- TARGET_CHANGED, TOO_MANY_TARGETS, TOO_MANY_ACTIVE_JOBS, STAGE_EMPTY, STAGES_TOO_SMALL, EXPIRY_TOO_EARLY,
-- START_OUT_OF_RANGE, REPLACEMENT_SCHEDULED, TOO_MANY_CONTINUOUS_JOBS, ZONE_NOT_ALLOWED, p_error_unless_repeated, and
-- JOB_ALREADY_EXISTS if a different request created the job.
CREATE OR REPLACE FUNCTION jobs.create_job(
    p_tenant_id text,
    p_job_id text,
    p_request jsonb,                    -- stored and compared; see services/job_request.py
    p_document_params jsonb,            -- compared, too
    p_created_by text,
    p_max_targets integer,
    p_max_active_jobs integer,          -- NULL: no limit
    -- From the start, if the request has no expiry. The minimum time of the rollout is added.
    p_default_expires_in_hours integer,
    p_validate_only boolean DEFAULT false,
    p_error_unless_repeated text DEFAULT NULL,  -- the error to raise if there is no such job yet; NULL: none
    p_selector_terms jsonb DEFAULT NULL,      -- of each selector in p_request; see target_query
    p_target_device_ids text[] DEFAULT NULL,  -- p_request has their number and a hash
    p_expected_target_digest text DEFAULT NULL   -- the digest that a new job must have; NULL: any
) RETURNS TABLE (
    status text,                        -- at creation: IN_PROGRESS, SCHEDULED or PAUSED
    execution_count integer,
    expires_at timestamptz,
    stage_sizes integer[],              -- of the rollout; NULL if the job existed already
    -- The next three only with p_validate_only: see preview_targets.
    device_ids text[],
    overlapping_job_ids text[],
    target_digest text,
    start_at timestamptz,               -- the start of the job
    minimum_time jsonb,                 -- see minimum_rollout_time; NULL: all can start at start_at
    active_jobs integer,                -- see check_active_job_limit; NULL: not counted
    -- Only with p_validate_only: see preview_replacement; NULL: none, or the replaced job is finished.
    replaced_devices jsonb
)
LANGUAGE plpgsql
-- settings: tenant, index
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := jobs.clock_time();
    v_target_device_id text := p_request ->> 'target_device_id';
    v_replaced_job_id text := p_request ->> 'replaces_job_id';
    v_queue_order smallint := jobs.queue_order(p_request ->> 'priority');
    v_rollout jsonb := p_request -> 'rollout';
    v_is_continuous boolean := p_request ? 'continuous';
    v_start_windows integer[] := translate(p_request ->> 'start_windows', '[]', '{}');
    v_expires_in_hours integer := nullif(  -- NULL: never
        coalesce((p_request -> 'expires_in_hours')::integer, p_default_expires_in_hours), 0
    );
    v_needs_approval boolean := p_request ? 'require_start_approval';
    v_time_zones text[];  -- of the start windows, as preview_targets returns them
    v_released integer;   -- executions at creation; the others are HELD
    v_details jsonb;      -- of the first event
BEGIN
    start_at := greatest((p_request ->> 'start_at')::timestamptz, v_now);
    IF v_needs_approval AND v_expires_in_hours IS NOT NULL THEN
        -- Until approve_start: the hours of the request count from the approval.
        v_expires_in_hours := /* maximum of CreateJobRequest.expires_in_hours */;
    END IF;
    expires_at := start_at + make_interval(hours => v_expires_in_hours);
    status := CASE WHEN v_needs_approval THEN 'PAUSED'
                   WHEN start_at > v_now THEN 'SCHEDULED'
                   ELSE 'IN_PROGRESS' END;

    IF p_validate_only THEN
        PERFORM jobs.repeated_job(p_tenant_id, p_job_id, p_request, p_document_params);
    ELSE
        -- Inserted first: concurrent requests with the same job_id wait here until this one commits.
        INSERT INTO jobs.jobs
            (tenant_id, job_id, document_type, document_params, target_device_id, target_group_id,
             target_all, expires_in_hours, expires_at, in_progress_timeout_minutes, created_by,
             created_at, updated_at, request, has_failure_criteria, max_in_progress, start_at,
             release_since, target_selector, target_device_count, target_failed_in, labels,
             description, priority, start_windows, window_time_zone, retry_policy,
             execution_events, replaces_job_id, start_approval, is_continuous, joined_count)
        VALUES
            (p_tenant_id, p_job_id, p_request ->> 'document_type', p_document_params,
             v_target_device_id, p_request ->> 'target_group_id', p_request ? 'target_all',
             v_expires_in_hours, expires_at, (p_request -> 'in_progress_timeout_minutes')::integer,
             p_created_by, v_now, v_now, p_request, p_request ? 'failure_criteria',
             (v_rollout -> 'max_in_progress')::integer,
             CASE WHEN p_request ? 'start_at' THEN start_at END,
             CASE WHEN start_at > v_now THEN start_at END,
             p_request ->> 'target_selector',
             (p_request -> 'target_device_ids' -> 'count')::integer, p_request -> 'target_failed_in',
             p_request -> 'labels', p_request ->> 'description',
             2 - v_queue_order,  -- of Job.Priority
             v_start_windows, nullif(p_request ->> 'window_time_zone', 'DEVICE'),
             p_request -> 'retry_policy', p_request ? 'execution_events', v_replaced_job_id,
             CASE WHEN v_needs_approval THEN '{}'::jsonb END,
             v_is_continuous, CASE WHEN v_is_continuous THEN 0 END)
        ON CONFLICT (tenant_id, job_id) DO NOTHING;
        IF NOT FOUND THEN
            -- The call that created the job may have failed while its commit waited for a synchronous standby. With
            -- this lock, which is logged, the commit of the repeated call waits for the same.
            PERFORM FROM jobs.jobs j WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id FOR KEY SHARE;
            SELECT r.status, r.execution_count, r.start_at, r.expires_at
            INTO status, execution_count, start_at, expires_at
            FROM jobs.repeated_job(p_tenant_id, p_job_id, p_request, p_document_params) r;
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;

    IF p_error_unless_repeated IS NOT NULL THEN
        PERFORM jobs.raise_error(p_error_unless_repeated);
    END IF;
    IF p_request ?| '{start_at,start_windows}' THEN
        PERFORM jobs.check_schedule(p_request, start_at, v_now);
    END IF;
    IF v_replaced_job_id IS NOT NULL THEN
        active_jobs := jobs.check_replacement(
            p_tenant_id, p_job_id, v_replaced_job_id, p_max_active_jobs
        );
    ELSIF p_max_active_jobs IS NOT NULL THEN
        active_jobs := jobs.check_active_job_limit(p_tenant_id, p_job_id, p_max_active_jobs);
    END IF;
    IF v_is_continuous THEN
        PERFORM jobs.check_continuous_job_limit(p_tenant_id, v_replaced_job_id, false);
    END IF;
    IF v_target_device_id IS NULL THEN
        PERFORM jobs.check_target(p_tenant_id, p_job_id, p_request, p_max_targets);
    END IF;

    IF p_validate_only THEN
        SELECT v.devices, v.stage_sizes, v.device_ids, v.overlapping_job_ids, v.target_digest,
               v.time_zones
        INTO execution_count, stage_sizes, device_ids, overlapping_job_ids, target_digest,
             v_time_zones
        FROM jobs.preview_targets(
            p_tenant_id, p_job_id, p_request, p_selector_terms, p_target_device_ids, p_max_targets
        ) v;
        IF v_rollout IS NOT NULL THEN
            PERFORM jobs.check_stage_sizes(
                v_rollout -> 'stages', stage_sizes, execution_count, v_is_continuous
            );
        END IF;
        IF v_replaced_job_id IS NOT NULL THEN
            replaced_devices := jobs.preview_replacement(
                p_tenant_id, p_job_id, p_request, p_selector_terms, p_target_device_ids, p_max_targets
            );
        END IF;
    ELSIF v_rollout IS NOT NULL THEN
        SELECT e.devices, e.stage_sizes INTO execution_count, stage_sizes
        FROM jobs.create_staged_executions(
            p_tenant_id, p_job_id, p_request, p_selector_terms, p_target_device_ids, p_max_targets,
            v_now, start_at
        ) e;
    ELSIF v_target_device_id IS NOT NULL AND v_start_windows IS NULL THEN
        -- The most frequent target, at less cost than with create_executions.
        INSERT INTO jobs.job_executions
            (tenant_id, job_id, device_id, queued_at, last_updated_at, queue_order)
        SELECT p_tenant_id, p_job_id, d.device_id, v_now, v_now, v_queue_order
        FROM public.device_state d
        WHERE d.tenant_id = p_tenant_id AND d.device_id = v_target_device_id;
        GET DIAGNOSTICS execution_count = ROW_COUNT;
    ELSE
        execution_count := jobs.create_executions(
            p_tenant_id, p_job_id, p_request, p_selector_terms, p_target_device_ids, p_max_targets,
            v_now
        );
    END IF;

    IF execution_count = 0 OR execution_count > p_max_targets
        OR execution_count < cardinality(p_target_device_ids) OR p_expected_target_digest IS NOT NULL
    THEN
        PERFORM jobs.check_created_target(
            p_tenant_id, p_job_id, p_request, p_target_device_ids, p_max_targets, execution_count,
            p_expected_target_digest, target_digest
        );
    END IF;
    -- Other jobs can end at once.
    IF v_rollout IS NOT NULL OR v_start_windows IS NOT NULL OR p_validate_only THEN
        SELECT t.minimum_time, t.expires_at INTO minimum_time, expires_at
        FROM jobs.fit_expiry(
            p_tenant_id, p_job_id, p_request, coalesce(stage_sizes, ARRAY[execution_count]), start_at,
            v_now, v_expires_in_hours, v_time_zones, p_validate_only
        ) t;
    END IF;

    IF NOT p_validate_only THEN
        IF v_replaced_job_id IS NOT NULL THEN
            active_jobs := jobs.replace_job(
                p_tenant_id, p_job_id, v_replaced_job_id, p_created_by, p_max_active_jobs
            );
            v_details := jsonb_build_object('replaces_job_id', v_replaced_job_id);
        END IF;
        -- Nothing is released before the start, and a rate releases nothing at the start.
        v_released := CASE
            WHEN start_at > v_now OR v_rollout -> 'stages' -> 0 ? 'releases_per_minute' THEN 0
            ELSE coalesce(stage_sizes[1], execution_count)
        END;
        INSERT INTO jobs.job_progress (tenant_id, job_id, queued, event_count)
        VALUES (p_tenant_id, p_job_id, execution_count, 1);
        -- The first event. add_event would write the row above a second time, and read the job.
        INSERT INTO jobs.event_queue
            (tenant_id, job_id, number, type, occurred_at, status, counts, user_id, details)
        VALUES
            (p_tenant_id, p_job_id, 1, 'job.created', v_now, status,
             ARRAY[v_released, execution_count - v_released, 0, 0, 0, 0, 0], p_created_by,
             v_details);

        IF p_request ? 'labels' THEN
            INSERT INTO jobs.job_labels (tenant_id, label, created_at, job_id)
            SELECT p_tenant_id, l.key || '=' || l.value, v_now, p_job_id
            FROM jsonb_each_text(p_request -> 'labels') AS l;
        END IF;
        IF p_request ? 'failure_criteria' THEN
            PERFORM jobs.insert_failure_criteria(
                p_tenant_id, p_job_id, p_request -> 'failure_criteria'
            );
        END IF;
        IF v_is_continuous THEN
            PERFORM jobs.insert_continuous_job(p_tenant_id, p_job_id, p_request, p_selector_terms, v_now);
        END IF;
        IF v_needs_approval THEN
            PERFORM jobs.set_paused(p_tenant_id, p_job_id, v_now, 'START_APPROVAL', '', NULL);
        END IF;
        IF v_rollout IS NOT NULL THEN
            -- An empty first stage passes at once, unless the job is paused.
            PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_now);
        END IF;
    END IF;
    RETURN NEXT;
END $$;
