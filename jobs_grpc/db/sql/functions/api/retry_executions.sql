-- Queues the next attempt of every execution that readers see in one of p_statuses and that matches
-- p_failure_codes and p_device_ids. If there is no such execution, changes nothing, not even the
-- expiry. Each execution keeps its stage and its rank, so it stays released.
--
-- Also retries executions whose next attempt the retry policy has queued after such a failure: it ends their
-- backoff. For all these executions, the retry policy counts attempts from 1 again.
--
-- Raises JOB_NOT_FOUND, JOB_CHANGED, JOB_NOT_RETRYABLE (with the status) if the job is canceled, or expired and
-- gets no new expiry, and TOO_MANY_ACTIVE_JOBS if the retry would make the job IN_PROGRESS.
CREATE OR REPLACE FUNCTION jobs.retry_executions(
    p_tenant_id text, p_job_id text,
    p_statuses text[],           -- of FAILED, TIMED_OUT and REJECTED
    p_expires_in_hours integer,  -- from now, or from the start; NULL: keep the expiry
    p_never_expires boolean,
    p_max_active_jobs integer,   -- NULL: no limit
    p_failure_codes text[] DEFAULT NULL,  -- NULL: all; '': failures without a code
    p_device_ids text[] DEFAULT NULL,     -- NULL: all
    p_user_id text DEFAULT NULL,          -- NULL: unknown
    p_etag text DEFAULT ''                -- '': any
) RETURNS TABLE (
    retried_count integer,
    expires_at timestamptz,
    timed_out_count integer  -- executions that expired before, and that this call stored as TIMED_OUT
)
LANGUAGE plpgsql
-- settings: tenant, index
AS $$
#variable_conflict use_column
DECLARE
    v_job record;
    v_now timestamptz;
    v_expired boolean;
    v_new_expires_at timestamptz;
    v_expired_details jsonb := jobs.final_status_details('TIMED_OUT', NULL);
    v_retries_expired boolean;  -- retries executions that the expiry timed out, which are stored as QUEUED
    v_statuses jobs.execution_status[];  -- the stored statuses of executions that may change
    v_status jobs.execution_status;
    -- The executions to change, in groups with the same counts. Their new status is QUEUED, or TIMED_OUT if
    -- they expired and are not retried.
    v_groups jobs.execution_change[];
    v_groups_of_status jobs.execution_change[];
    v_counts_since timestamptz[];
    v_retried integer;
BEGIN
    v_job := jobs.lock_job(p_tenant_id, p_job_id, p_etag);
    v_now := v_job.locked_at;
    v_expired := jobs.is_expired_at(v_job.expires_at, v_now);
    v_retries_expired := v_expired AND 'TIMED_OUT' = ANY (p_statuses);
    v_new_expires_at := CASE
        WHEN p_never_expires THEN NULL
        WHEN p_expires_in_hours IS NULL THEN v_job.expires_at
        ELSE greatest(v_now, v_job.start_at) + make_interval(hours => p_expires_in_hours)
    END;
    IF v_job.status = 'CANCELED' OR jobs.is_expired_at(v_new_expires_at, v_now) THEN
        PERFORM jobs.raise_error('JOB_NOT_RETRYABLE', v_job.status::text);
    END IF;

    -- The counts are exact, so executions with a status are read only if there are some to change.
    v_statuses := ARRAY(
        SELECT DISTINCT u.status::jobs.execution_status
        FROM unnest('QUEUED'::text || p_statuses) AS u (status)
        WHERE CASE WHEN u.status = 'FAILED' THEN v_job.failed
                   WHEN u.status = 'TIMED_OUT' THEN v_job.timed_out
                   WHEN u.status = 'REJECTED' THEN v_job.rejected
                   WHEN v_expired THEN v_job.queued
                   ELSE v_job.retrying END > 0
        ORDER BY 1
    );
    -- A group must not have failures from both before and after the restart of a criterion.
    v_counts_since := ARRAY(
        SELECT DISTINCT c.counts_since + interval '1 microsecond'
        FROM jobs.job_failure_criteria c
        WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
        ORDER BY 1
    );
    -- EXECUTE puts the status into the statement as a constant, which the predicate of the status's index matches.
    FOREACH v_status IN ARRAY v_statuses LOOP
        EXECUTE format(
            $query$
            SELECT array_agg(jobs.execution_change(
                job_id => $2, stage => g.stage, executions => g.executions, stored_status => %L,
                failed_status => g.failed_status, failed_code => g.failed_code,
                failed_at => g.failed_at, retries => g.retries, new_status => g.new_status
            ))
            FROM (
                SELECT e.stage, e.new_status, e.failed_status, e.failed_code,
                       min(e.failed_at) AS failed_at, min(e.retries) AS retries,
                       count(*)::integer AS executions
                FROM (
                    SELECT e.stage, e.retries,
                           -- If a cancel or an expiry ended the last attempt, the failure of the attempt
                           -- before counts.
                           CASE WHEN e.failure_code IS NULL THEN e.failed_status ELSE e.status END
                               AS failed_status,
                           coalesce(e.failure_code, e.failed_code) AS failed_code,
                           CASE WHEN e.failure_code IS NULL THEN e.failed_at ELSE e.last_updated_at END
                               AS failed_at,
                           CASE WHEN e.status <> 'QUEUED' OR NOT $7
                                     OR $8 AND jobs.matches_retry(e.failure_code, e.device_id, $4, $5)
                                THEN 'QUEUED' ELSE 'TIMED_OUT' END::jobs.execution_status AS new_status
                    FROM jobs.job_executions e
                    WHERE e.tenant_id = $1 AND e.job_id = $2 AND e.status = %L
                      AND CASE WHEN e.status <> 'QUEUED'
                                   THEN jobs.matches_retry(e.failure_code, e.device_id, $4, $5)
                               ELSE $7 OR e.failed_at IS NOT NULL AND e.failed_status = ANY ($3)
                                          AND jobs.matches_retry(e.failed_code, e.device_id, $4, $5) END
                ) e
                GROUP BY e.stage, e.new_status, e.failed_status, e.failed_code,
                         width_bucket(e.failed_at, $6), e.retries > 0
            ) g
            $query$,
            v_status, v_status
        ) INTO v_groups_of_status
        USING p_tenant_id, p_job_id, p_statuses::jobs.execution_status[], p_failure_codes, p_device_ids,
              v_counts_since, v_expired, v_retries_expired;
        v_groups := v_groups || v_groups_of_status;
    END LOOP;
    v_retried := (SELECT sum(g.executions) FROM unnest(v_groups) g WHERE g.new_status = 'QUEUED');
    IF v_retried IS NULL THEN
        RETURN QUERY SELECT 0, v_job.expires_at, 0;
        RETURN;
    END IF;

    IF v_job.status <> 'IN_PROGRESS' AND p_max_active_jobs IS NOT NULL THEN
        PERFORM jobs.check_active_job_limit(p_tenant_id, p_job_id, p_max_active_jobs);
    END IF;
    PERFORM jobs.count_changes(p_tenant_id, v_groups, v_now);

    IF v_expired THEN
        -- A new expiry would make readers see these executions as QUEUED again.
        UPDATE jobs.job_executions e
        SET status = 'TIMED_OUT', last_updated_at = v_job.expires_at, status_details = v_expired_details,
            end_cause = 'JOB_EXPIRED'
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.status = 'QUEUED'
          AND (v_retries_expired AND jobs.matches_retry(
                  e.failure_code, e.device_id, p_failure_codes, p_device_ids
              )) IS NOT TRUE;
    ELSIF v_job.retrying > 0 THEN
        -- Their next attempt is queued already.
        UPDATE jobs.job_executions e
        SET version = e.version + 1, last_updated_at = v_now, not_before = NULL, retries = 0,
            failed_status = NULL, failed_code = NULL, failed_at = NULL
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.status = 'QUEUED'
          AND e.failed_at IS NOT NULL AND e.failed_status = ANY (p_statuses::jobs.execution_status[])
          AND jobs.matches_retry(e.failed_code, e.device_id, p_failure_codes, p_device_ids);
    END IF;
    -- QUEUED, of executions that expired, comes first: the later statuses add rows that are QUEUED.
    FOREACH v_status IN ARRAY v_statuses LOOP
        CONTINUE WHEN v_status = 'QUEUED' AND NOT v_retries_expired;
        PERFORM jobs.queue_next_attempts(
            p_tenant_id, p_job_id, v_status, p_failure_codes, p_device_ids, v_job.expires_at, v_now
        );
    END LOOP;

    UPDATE jobs.job_progress p
    SET has_expiry_event = false
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id AND p.has_expiry_event;
    UPDATE jobs.jobs j
    SET status = 'IN_PROGRESS', completed_at = NULL, expires_at = v_new_expires_at,
        finalized = false, revision = j.revision + 1,
        is_continuous = j.is_continuous AND NOT v_expired,
        -- As finalize_executions does, which may not have run yet.
        awaiting_approval = j.awaiting_approval AND NOT v_expired,
        updated_at = CASE WHEN v_job.status = 'IN_PROGRESS' THEN j.updated_at ELSE v_now END
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_expired THEN
        DELETE FROM jobs.continuous_jobs c WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;
    END IF;
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, v_now, 'job.retried', p_user_id,
        jsonb_build_object('retried_count', v_retried)
    );
    PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_now);
    RETURN QUERY SELECT v_retried, v_new_expires_at, CASE WHEN v_expired THEN v_job.queued ELSE 0 END;
END $$;
