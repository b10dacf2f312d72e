-- depends on: apply_rollout_rules, check_active_job_limit, check_device_list, check_time_for_rollout, check_stage_sizes, check_target, create_executions, create_staged_executions, job_states, minimum_rollout_time, preview_targets, queued_time_zones, target_digest, target_hashes
-- Creates a job and an execution for each targeted device. If the same request, of any user, created the
-- job before, changes nothing and returns the same result. With p_validate_only, checks the request and
-- returns what it would do, but writes nothing.
--
-- Raises DEVICE_NOT_FOUND, DEVICES_NOT_FOUND, JOB_NOT_FOUND, GROUP_EMPTY, TENANT_EMPTY, TARGET_EMPTY,
-- TARGET_CHANGED, TOO_MANY_TARGETS, TOO_MANY_ACTIVE_JOBS, STAGE_EMPTY, STAGES_TOO_SMALL, EXPIRY_TOO_EARLY,
-- START_OUT_OF_RANGE, ZONE_NOT_ALLOWED, p_error_if_new, and JOB_ALREADY_EXISTS if a different request created
-- the job.
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
    p_error_if_new text DEFAULT NULL,   -- the error to raise unless the job exists; NULL: none
    p_selector_terms jsonb DEFAULT NULL,      -- of each selector in p_request; see target_query
    p_target_device_ids text[] DEFAULT NULL,  -- p_request has their number and a hash
    p_expected_target_digest text DEFAULT NULL   -- the digest that a new job must have; NULL: any
) RETURNS TABLE (
    status text,                        -- at creation: IN_PROGRESS or SCHEDULED
    execution_count integer,
    expires_at timestamptz,
    stage_sizes integer[],              -- of the rollout; NULL if the job existed already
    -- The next three only with p_validate_only: see preview_targets.
    device_ids text[],
    overlapping_job_ids text[],
    target_digest text,
    start_at timestamptz,               -- the start of the job
    minimum_time jsonb,                 -- see minimum_rollout_time; NULL: all can start at start_at
    active_jobs integer                 -- see check_active_job_limit; NULL: not counted
)
LANGUAGE plpgsql
-- settings: index
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := jobs.clock_time();
    v_start_at timestamptz := greatest((p_request ->> 'start_at')::timestamptz, v_now);
    v_target_device_id text := p_request ->> 'target_device_id';
    v_target_group_id text := p_request ->> 'target_group_id';
    v_target_all boolean := p_request ? 'target_all';
    v_queue_order smallint := jobs.queue_order(p_request ->> 'priority');
    v_rollout jsonb := p_request -> 'rollout';
    v_failure_criteria jsonb := p_request -> 'failure_criteria';
    -- Start windows are in the time zone of each device, which its execution stores.
    v_has_device_zones boolean := coalesce(p_request ->> 'window_time_zone' = 'DEVICE', false);
    v_has_expiry boolean := p_request ? 'expires_in_hours';
    v_expires_in_hours integer :=  -- NULL: never
        CASE WHEN v_has_expiry THEN nullif((p_request -> 'expires_in_hours')::integer, 0)
             ELSE p_default_expires_in_hours END;
    v_expires_at timestamptz := v_start_at + make_interval(hours => v_expires_in_hours);
    v_start_windows integer[] := translate(p_request ->> 'start_windows', '[]', '{}');
    v_window_time_zones text[] := ARRAY[p_request ->> 'window_time_zone'];
    v_exists boolean;
    v_job record;
    v_is_deleted boolean;
    v_released integer;  -- executions at creation; the others are HELD
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    IF p_validate_only THEN
        v_exists := EXISTS (
            SELECT FROM jobs.jobs j WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
        );
    ELSE
        -- Inserted first: concurrent requests with the same job_id wait here until this one commits.
        INSERT INTO jobs.jobs
            (tenant_id, job_id, document_type, document_params, target_device_id, target_group_id,
             target_all, expires_in_hours, expires_at, in_progress_timeout_minutes, created_by,
             created_at, updated_at, request, has_failure_criteria, max_in_progress, start_at,
             release_since, target_selector, target_device_count, target_failed_in, labels,
             description, priority, start_windows, window_time_zone, retry_policy,
             execution_events)
        VALUES
            (p_tenant_id, p_job_id, p_request ->> 'document_type', p_document_params,
             v_target_device_id, v_target_group_id, v_target_all, v_expires_in_hours, v_expires_at,
             (p_request -> 'in_progress_timeout_minutes')::integer, p_created_by, v_now, v_now,
             p_request, v_failure_criteria IS NOT NULL, (v_rollout -> 'max_in_progress')::integer,
             CASE WHEN p_request ? 'start_at' THEN v_start_at END,
             CASE WHEN v_start_at > v_now THEN v_start_at END,
             p_request ->> 'target_selector',
             (p_request -> 'target_device_ids' -> 'count')::integer, p_request -> 'target_failed_in',
             p_request -> 'labels', p_request ->> 'description',
             2 - v_queue_order,  -- of Job.Priority
             v_start_windows, nullif(p_request ->> 'window_time_zone', 'DEVICE'),
             p_request -> 'retry_policy', p_request ? 'execution_events')
        ON CONFLICT (tenant_id, job_id) DO NOTHING;
        v_exists := NOT FOUND;
    END IF;

    IF v_exists THEN
        SELECT s.total_executions, j.created_at, j.expires_in_hours, j.request, j.document_params,
               -- UpdateJob can have changed the column.
               greatest((j.request ->> 'start_at')::timestamptz, j.created_at) AS first_start_at
        INTO v_job
        FROM jobs.job_states s
        JOIN jobs.jobs j ON j.tenant_id = s.tenant_id AND j.job_id = s.job_id
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
        -- A deleted job has no row in job_states.
        v_is_deleted := NOT FOUND;
        -- Earlier servers stored the request without target_all. No other target means the same devices.
        IF v_is_deleted
            OR v_job.request - 'target_all' IS DISTINCT FROM p_request - 'target_all'
            OR v_job.document_params <> p_document_params
        THEN
            PERFORM jobs.raise_error(
                'JOB_ALREADY_EXISTS', '', jsonb_build_object('deleted', v_is_deleted)
            );
        END IF;
        IF NOT p_validate_only THEN
            status := CASE WHEN v_job.first_start_at > v_job.created_at THEN 'SCHEDULED'
                           ELSE 'IN_PROGRESS' END;
            execution_count := v_job.total_executions;
            expires_at := v_job.first_start_at + make_interval(hours => v_job.expires_in_hours);
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;

    IF p_error_if_new IS NOT NULL THEN
        PERFORM jobs.raise_error(p_error_if_new);
    END IF;

    IF v_start_at > v_now + interval '2160 hours' THEN  -- 90 days
        PERFORM jobs.raise_error('START_OUT_OF_RANGE');
    END IF;
    IF v_start_windows IS NOT NULL AND NOT v_has_device_zones
       AND NOT jobs.is_known_time_zone(p_request ->> 'window_time_zone') THEN
        PERFORM jobs.raise_error('ZONE_NOT_ALLOWED', 'is not known to the database');
    END IF;
    IF p_max_active_jobs IS NOT NULL THEN
        active_jobs := jobs.check_active_job_limit(p_tenant_id, p_job_id, p_max_active_jobs);
    END IF;

    IF v_target_device_id IS NULL THEN
        PERFORM jobs.check_target(p_tenant_id, p_job_id, p_request, p_max_targets);
    END IF;

    IF p_validate_only THEN
        SELECT v.devices, v.stage_sizes, v.device_ids, v.overlapping_job_ids, v.target_digest,
               coalesce(v.time_zones, v_window_time_zones)
        INTO execution_count, stage_sizes, device_ids, overlapping_job_ids, target_digest,
             v_window_time_zones
        FROM jobs.preview_targets(
            p_tenant_id, p_job_id, p_request, p_selector_terms, p_target_device_ids, p_max_targets
        ) v;
        IF v_rollout IS NOT NULL THEN
            PERFORM jobs.check_stage_sizes(v_rollout -> 'stages', stage_sizes, execution_count);
        END IF;
    ELSIF v_rollout IS NOT NULL THEN
        SELECT e.devices, e.stage_sizes INTO execution_count, stage_sizes
        FROM jobs.create_staged_executions(
            p_tenant_id, p_job_id, p_request, p_selector_terms, p_target_device_ids, p_max_targets,
            v_now, v_start_at
        ) e;
    ELSIF v_has_device_zones THEN
        execution_count := jobs.create_executions(
            p_tenant_id, p_job_id, p_request, p_selector_terms, p_target_device_ids, p_max_targets,
            v_now
        );
    ELSIF v_target_device_id IS NOT NULL THEN
        INSERT INTO jobs.job_executions
            (tenant_id, job_id, device_id, queued_at, last_updated_at, queue_order)
        SELECT p_tenant_id, p_job_id, d.device_id, v_now, v_now, v_queue_order
        FROM public.device_state d
        WHERE d.tenant_id = p_tenant_id AND d.device_id = v_target_device_id;
        GET DIAGNOSTICS execution_count = ROW_COUNT;
    ELSIF v_target_group_id IS NOT NULL THEN
        INSERT INTO jobs.job_executions
            (tenant_id, job_id, device_id, queued_at, last_updated_at, queue_order)
        SELECT p_tenant_id, p_job_id, m.device_id, v_now, v_now, v_queue_order
        FROM public.device_group_members m
        WHERE m.tenant_id = p_tenant_id AND m.group_id = v_target_group_id;
        GET DIAGNOSTICS execution_count = ROW_COUNT;
    ELSIF v_target_all THEN
        INSERT INTO jobs.job_executions
            (tenant_id, job_id, device_id, queued_at, last_updated_at, queue_order)
        SELECT p_tenant_id, p_job_id, d.device_id, v_now, v_now, v_queue_order
        FROM public.device_state d
        WHERE d.tenant_id = p_tenant_id;
        GET DIAGNOSTICS execution_count = ROW_COUNT;
    ELSE
        execution_count := jobs.create_executions(
            p_tenant_id, p_job_id, p_request, p_selector_terms, p_target_device_ids, p_max_targets,
            v_now
        );
    END IF;

    -- Check again: devices may have been added to the group or the tenant since the first check.
    IF execution_count > p_max_targets THEN
        PERFORM jobs.raise_error('TOO_MANY_TARGETS');
    END IF;
    IF NOT p_validate_only AND execution_count < cardinality(p_target_device_ids) THEN
        PERFORM jobs.check_device_list(p_target_device_ids, ARRAY(
            SELECT e.device_id
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
        ));
    END IF;

    IF p_expected_target_digest IS NOT NULL THEN
        IF NOT p_validate_only THEN
            -- Compute the digest from the executions, so that a concurrent change is detected.
            SELECT jobs.target_digest(count(*), sum(e.hashes[1]), sum(e.hashes[2])) INTO target_digest
            FROM (
                SELECT jobs.target_hashes(e.device_id, CASE
                    WHEN v_rollout -> 'stages' -> e.stage::integer ?| '{group_id,selector}'
                        THEN e.stage + 1
                END) AS hashes
                FROM jobs.job_executions e
                WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
                OFFSET 0
            ) e;
        END IF;
        IF target_digest <> p_expected_target_digest THEN
            PERFORM jobs.raise_error('TARGET_CHANGED', '', jsonb_build_object(
                'device_count', execution_count::text,
                'expected_count', split_part(p_expected_target_digest, '-', 1)
            ));
        END IF;
    END IF;

    IF execution_count = 0 THEN
        IF v_target_device_id IS NOT NULL THEN
            PERFORM jobs.raise_error(
                'DEVICE_NOT_FOUND', '', jsonb_build_object('device_id', v_target_device_id)
            );
        ELSIF v_target_group_id IS NOT NULL THEN
            PERFORM jobs.raise_error(
                'GROUP_EMPTY', '', jsonb_build_object('group_id', v_target_group_id)
            );
        ELSIF v_target_all THEN
            PERFORM jobs.raise_error('TENANT_EMPTY');
        ELSE
            PERFORM jobs.raise_error('TARGET_EMPTY', '', jsonb_build_object(
                'failed_in', p_request -> 'target_failed_in' -> 'job_id',
                'selector', left(p_request ->> 'target_selector', 200)
            ));
        END IF;
    END IF;

    -- Other jobs can end at once.
    IF v_rollout IS NOT NULL OR v_start_windows IS NOT NULL OR p_validate_only THEN
        IF v_window_time_zones = '{DEVICE}' THEN
            v_window_time_zones := jobs.queued_time_zones(p_tenant_id, p_job_id);
        END IF;
        minimum_time := jobs.minimum_rollout_time(
            v_rollout -> 'stages', coalesce(stage_sizes, ARRAY[execution_count]), v_start_at,
            v_start_windows, v_window_time_zones
        );
        IF NOT v_has_expiry THEN
            -- 720 is the maximum of a request.
            v_expires_in_hours := least(
                ceil((minimum_time ->> 'seconds')::numeric / 3600) + v_expires_in_hours, 720
            );
            v_expires_at := v_start_at + make_interval(hours => v_expires_in_hours);
            IF NOT p_validate_only AND v_expires_in_hours <> p_default_expires_in_hours THEN
                UPDATE jobs.jobs j
                SET expires_in_hours = v_expires_in_hours, expires_at = v_expires_at
                WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
            END IF;
        END IF;
        PERFORM jobs.check_time_for_rollout(
            minimum_time, v_expires_in_hours * 3600, v_start_at > v_now
        );
    END IF;
    status := CASE WHEN v_start_at > v_now THEN 'SCHEDULED' ELSE 'IN_PROGRESS' END;
    start_at := v_start_at;
    expires_at := v_expires_at;
    IF NOT p_validate_only THEN
        -- Nothing is released before the start, and a rate releases nothing at the start.
        v_released := CASE
            WHEN v_start_at > v_now OR v_rollout -> 'stages' -> 0 ? 'releases_per_minute' THEN 0
            ELSE coalesce(stage_sizes[1], execution_count)
        END;
        INSERT INTO jobs.job_progress (tenant_id, job_id, queued, event_count)
        VALUES (p_tenant_id, p_job_id, execution_count, 1);
        -- The first event. add_event would write the row above a second time, and read the job.
        INSERT INTO jobs.event_queue
            (tenant_id, job_id, number, type, occurred_at, status, counts, user_id)
        VALUES
            (p_tenant_id, p_job_id, 1, 'job.created', v_now, status,
             ARRAY[v_released, execution_count - v_released, 0, 0, 0, 0, 0], p_created_by);

        IF p_request ? 'labels' THEN
            INSERT INTO jobs.job_labels (tenant_id, label, created_at, job_id)
            SELECT p_tenant_id, l.key || '=' || l.value, v_now, p_job_id
            FROM jsonb_each_text(p_request -> 'labels') AS l;
        END IF;
        IF v_failure_criteria IS NOT NULL THEN
            PERFORM jobs.insert_failure_criteria(p_tenant_id, p_job_id, v_failure_criteria);
        END IF;
        IF v_rollout IS NOT NULL THEN
            -- An empty first stage passes at once.
            PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_now);
        END IF;
    END IF;
    RETURN NEXT;
END $$;
