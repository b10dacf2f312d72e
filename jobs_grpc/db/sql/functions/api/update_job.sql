-- Changes the settings that p_fields names, of a job that is not finished, or its labels and description
-- in any status. Then applies the rules of the job. Returns two rows: after and before the change.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, JOB_NOT_UPDATABLE (with the status and whether the call changes the
-- start), START_OUT_OF_RANGE, EXPIRY_OUT_OF_RANGE, EXPIRY_TOO_EARLY, ZONE_NOT_ALLOWED (with the problem),
-- JOB_NOT_CONTINUOUS (with the field), and STAGE_FIXED and ROLLOUT_MISSING (with the field).
CREATE OR REPLACE FUNCTION jobs.update_job(
    p_tenant_id text, p_job_id text,
    p_etag text,                            -- '': any
    p_fields text[],                        -- as in UpdateJobRequest.update_mask
    p_in_progress_timeout_minutes integer,  -- NULL: none
    -- The next two are written by services/rollout_json.py.
    p_rollout jsonb,
    p_failure_criteria jsonb,
    p_expires_at timestamptz DEFAULT NULL,  -- NULL: never
    p_labels jsonb DEFAULT '{}',
    p_description text DEFAULT '',
    p_start_at timestamptz DEFAULT NULL,    -- NULL, or a time that has passed: now
    -- The next three are written by services/schedule.py.
    p_start_windows integer[] DEFAULT NULL,  -- NULL: none
    p_window_time_zone text DEFAULT NULL,    -- 'DEVICE': that of each device
    p_retry_policy jsonb DEFAULT NULL,       -- NULL or []: none
    p_user_id text DEFAULT NULL,             -- NULL: unknown
    p_continuous boolean DEFAULT false,
    p_max_joins_per_hour integer DEFAULT NULL  -- NULL: the default
) RETURNS SETOF jobs.job_details
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
DECLARE
    v_changes_rules boolean := NOT p_fields <@ '{labels,description}';
    v_job record;
    v_before jobs.job_details;
    v_is_expired boolean;
    v_field text;
    v_max_expires_at timestamptz;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_job_id, p_etag);
    IF v_job.status <> 'IN_PROGRESS' AND v_changes_rules THEN
        PERFORM jobs.raise_error(
            'JOB_NOT_UPDATABLE', v_job.status_text, '{"changes_start": false}'
        );
    END IF;
    -- Readers have seen QUEUED executions of an expired job as TIMED_OUT, which is terminal.
    v_is_expired := jobs.is_expired_at(v_job.expires_at, v_job.locked_at);
    IF 'expires_at' = ANY (p_fields) THEN
        v_max_expires_at := v_job.locked_at + interval '8784 hours';  -- 366 days
        IF v_is_expired THEN
            PERFORM jobs.raise_error(
                'JOB_NOT_UPDATABLE', v_job.status_text, '{"changes_start": false}'
            );
        ELSIF jobs.is_expired_at(p_expires_at, v_job.locked_at)
              OR p_expires_at > v_max_expires_at THEN
            PERFORM jobs.raise_error('EXPIRY_OUT_OF_RANGE');
        END IF;
    END IF;

    IF 'start_at' = ANY (p_fields) THEN
        IF coalesce(v_job.start_at <= v_job.locked_at, true) THEN
            PERFORM jobs.raise_error(
                'JOB_NOT_UPDATABLE', v_job.status_text, '{"changes_start": true}'
            );
        ELSIF p_start_at > jobs.latest_start(v_job.locked_at) THEN
            PERFORM jobs.raise_error('START_OUT_OF_RANGE');
        END IF;
    END IF;

    IF v_job.open_stage IS NULL THEN
        SELECT f.field INTO v_field
        FROM unnest(p_fields) AS f (field)
        WHERE f.field LIKE 'rollout.%'
        LIMIT 1;
        IF FOUND THEN
            PERFORM jobs.raise_error('ROLLOUT_MISSING', v_field);
        END IF;
    END IF;

    SELECT s.* INTO v_before
    FROM jobs.job_details s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
    IF 'start_at' = ANY (p_fields) THEN
        PERFORM jobs.set_start_at(
            p_tenant_id, p_job_id, greatest(p_start_at, v_job.locked_at)
        );
    END IF;
    UPDATE jobs.jobs j
    SET revision = j.revision + 1,
        expires_at = CASE WHEN 'expires_at' = ANY (p_fields) THEN p_expires_at ELSE j.expires_at END,
        in_progress_timeout_minutes = CASE WHEN 'in_progress_timeout_minutes' = ANY (p_fields)
                                           THEN p_in_progress_timeout_minutes
                                           ELSE j.in_progress_timeout_minutes END,
        max_in_progress = CASE WHEN 'rollout.max_in_progress' = ANY (p_fields)
                               THEN (p_rollout ->> 'max_in_progress')::integer
                               ELSE j.max_in_progress END,
        description = CASE WHEN 'description' = ANY (p_fields) THEN nullif(p_description, '')
                           ELSE j.description END,
        retry_policy = CASE WHEN 'retry_policy' <> ALL (p_fields) THEN j.retry_policy
                            WHEN j.retry_policy IS NULL THEN nullif(p_retry_policy, '[]')
                            -- Removing a policy leaves [], because executions may still be retrying.
                            ELSE coalesce(p_retry_policy, '[]') END
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF 'rollout.stages' = ANY (p_fields) THEN
        PERFORM jobs.update_stages(
            p_tenant_id, p_job_id, p_rollout -> 'stages', v_job.locked_at
        );
    END IF;
    IF 'failure_criteria' = ANY (p_fields) THEN
        PERFORM jobs.replace_failure_criteria(
            p_tenant_id, p_job_id, p_failure_criteria, v_job.locked_at
        );
    END IF;
    IF p_fields && '{start_windows,window_time_zone}' THEN
        PERFORM jobs.set_start_windows(
            p_tenant_id, p_job_id, p_fields, p_start_windows, p_window_time_zone
        );
    END IF;
    IF 'labels' = ANY (p_fields) THEN
        PERFORM jobs.set_job_labels(p_tenant_id, p_job_id, nullif(p_labels, '{}'));
    END IF;
    IF p_fields && '{continuous,max_joins_per_hour}' THEN
        PERFORM jobs.update_continuous_job(
            p_tenant_id, p_job_id, p_fields, p_continuous, p_max_joins_per_hour, v_is_expired
        );
    END IF;
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, v_job.locked_at, 'job.updated', p_user_id,
        jsonb_build_object('updated_fields', p_fields)
    );
    IF 'continuous' = ANY (p_fields) THEN
        PERFORM jobs.complete_finished_jobs(p_tenant_id, ARRAY[p_job_id], v_job.locked_at, p_user_id);
    END IF;

    IF v_changes_rules THEN
        PERFORM jobs.apply_rollout_rules(
            p_tenant_id, p_job_id, v_job.locked_at,
            CASE WHEN 'failure_criteria' = ANY (p_fields) THEN true END
        );
    END IF;
    -- After the rules, which may open the next stage.
    IF p_fields && '{start_at,expires_at,start_windows,window_time_zone,rollout.stages}'
       AND NOT v_is_expired THEN
        PERFORM jobs.check_time_for_rest_of_rollout(p_tenant_id, p_job_id, v_job.locked_at);
    END IF;

    RETURN QUERY
    SELECT s.*
    FROM jobs.job_details s
    WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
    RETURN NEXT v_before;
END $$;
