-- Lets devices join a continuous job, within the limits of join_devices: adds executions for new devices, and queues
-- the next attempt of devices that were deleted. Returns how many devices joined. The caller holds the job lock, has
-- set the tenant, and has checked the devices.
CREATE OR REPLACE FUNCTION jobs.add_joined_executions(
    p_tenant_id text, p_job_id text,
    p_removed text[],     -- devices with an execution that ended as DEVICE_DELETED; NULL: none
    p_new text[],         -- devices without one; NULL: none
    p_time_zones text[],  -- parallel to p_new
    p_max_targets integer,
    p_now timestamptz
) RETURNS integer
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    v_job record;
    v_brake jobs.continuous_jobs;
    v_stage record;       -- the last one; all NULL without a rollout
    v_removed text[] := coalesce(p_removed, '{}');
    v_new text[] := coalesce(p_new, '{}');
    v_room integer;
    v_joined integer;
    v_groups jobs.execution_change[];
BEGIN
    SELECT j.paused_at, j.open_stage, j.release_rate, j.priority,
           p.queued + p.in_progress + p.succeeded + p.failed + p.timed_out + p.rejected AS total
    INTO v_job
    FROM jobs.jobs j
    JOIN jobs.job_progress p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    SELECT max(s.stage) AS stage, max(s.last_rank) AS last_rank INTO v_stage
    FROM jobs.job_stages s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
    SELECT c.* INTO v_brake
    FROM jobs.continuous_jobs c
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;

    v_room := greatest(p_max_targets - v_job.total, 0);
    -- Devices that get their next attempt need no room, so they don't show whether others could join.
    v_brake.is_full := cardinality(v_new) > v_room OR v_brake.is_full AND v_room = 0;
    v_new := v_new[:v_room];

    -- The hour also ends if the clock was set back before it.
    IF coalesce(p_now NOT BETWEEN v_brake.hour_started_at AND v_brake.hour_started_at + interval '1 hour', true) THEN
        v_brake.hour_started_at := p_now;
        v_brake.hour_limit := greatest(100, (v_job.total::bigint * 5 + 99) / 100);
        v_brake.hour_joins := 0;
    END IF;
    v_brake.hour_limit := coalesce(v_brake.max_joins_per_hour, v_brake.hour_limit);
    v_room := greatest(v_brake.hour_limit - v_brake.hour_joins, 0);
    v_brake.is_stopped := cardinality(v_removed) + cardinality(v_new) > v_room;
    v_removed := v_removed[:v_room];
    v_new := v_new[:v_room - cardinality(v_removed)];
    v_joined := cardinality(v_removed) + cardinality(v_new);
    v_brake.hour_joins := v_brake.hour_joins + v_joined;
    UPDATE jobs.continuous_jobs c
    SET hour_started_at = CASE WHEN v_brake.hour_joins > 0 THEN v_brake.hour_started_at END,
        hour_limit = v_brake.hour_limit, hour_joins = v_brake.hour_joins,
        is_stopped = v_brake.is_stopped, is_full = v_brake.is_full
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;

    IF v_joined > 0 THEN
        v_groups := ARRAY(
            SELECT jobs.execution_change(
                job_id => p_job_id, stage => e.stage, stored_status => e.status,
                failed_status => e.failed_status, failed_code => e.failed_code, failed_at => e.failed_at,
                retries => e.retries, new_status => 'QUEUED'
            )
            FROM unnest(v_removed) AS u (device_id)
            CROSS JOIN LATERAL (
                SELECT e.*
                FROM jobs.job_executions e
                WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = u.device_id
                OFFSET 0
            ) e
        );
        IF v_removed <> '{}' THEN
            PERFORM jobs.queue_next_attempts(
                p_tenant_id, p_job_id, 'REJECTED', NULL, v_removed, NULL, p_now
            );
        END IF;
        IF v_new <> '{}' THEN
            v_groups := v_groups || jobs.execution_change(
                job_id => p_job_id, stage => v_stage.stage, executions => cardinality(v_new), new_status => 'QUEUED'
            );
            INSERT INTO jobs.job_executions
                (tenant_id, job_id, device_id, queued_at, last_updated_at, queue_order, time_zone, stage, rank)
            SELECT p_tenant_id, p_job_id, u.device_id, p_now, p_now, 2 - v_job.priority, p_time_zones[u.n],
                   v_stage.stage, v_stage.last_rank + u.n
            FROM unnest(v_new) WITH ORDINALITY AS u (device_id, n);
            UPDATE jobs.job_stages s
            SET last_rank = s.last_rank + cardinality(v_new)
            WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = v_stage.stage;
            IF v_job.open_stage = v_stage.stage THEN
                -- Releases do not accumulate while no device is held: otherwise, a batch after a quiet day would be
                -- released at once.
                PERFORM jobs.set_release(
                    p_tenant_id, p_job_id, v_stage.last_rank + cardinality(v_new), v_job.release_rate, p_now
                );
            END IF;
        END IF;
        PERFORM jobs.count_changes(p_tenant_id, v_groups, p_now);
        UPDATE jobs.jobs j
        SET joined_count = j.joined_count + cardinality(v_new), last_joined_at = p_now
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
        PERFORM jobs.add_event(
            p_tenant_id, p_job_id, p_now, 'job.devices_joined', NULL,
            jsonb_build_object('joined_count', v_joined)
        );
    END IF;

    IF v_brake.is_stopped AND v_job.paused_at IS NULL THEN
        PERFORM jobs.set_paused(
            p_tenant_id, p_job_id, p_now, 'JOINS',
            format(
                'more devices match than the %s that may join in an hour (%s joined since %s UTC)',
                v_brake.hour_limit, v_brake.hour_joins,
                to_char(v_brake.hour_started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
            ),
            NULL
        );
    ELSE
        -- A gate that failed while no later device was pending pauses the job now.
        PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, p_now);
    END IF;
    RETURN v_joined;
END $$;
