-- depends on: reset_retrying_counts, uncount_failures
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
    p_tenant_id text,
    p_job_id text,
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
-- settings: index
AS $$
#variable_conflict use_column
DECLARE
    v_job record;
    v_now timestamptz;
    v_expired boolean;
    v_new_expires_at timestamptz;
    v_stored_statuses jobs.execution_status[] := p_statuses::jobs.execution_status[];
    v_expired_details jsonb := jobs.final_status_details('TIMED_OUT', NULL);
    v_failed integer;  -- this and the next three: the executions to retry, by stored status
    v_timed_out integer;
    v_rejected integer;
    v_queued integer;
    v_queued_retries integer := 0;  -- executions whose next attempt the retry policy has queued
    v_retried integer;
    v_kept_timed_out integer := 0;  -- not retried: stored as TIMED_OUT instead of QUEUED
    v_status jobs.execution_status;
    v_has_stages boolean;
    -- Of the executions to retry that count as failed: their failures, in parallel arrays.
    v_device_ids text[];
    v_failed_statuses jobs.execution_status[];
    v_failed_codes text[];
    v_stages smallint[];
    v_failed_ats timestamptz[];
    v_retried_devices integer := 0;  -- executions to retry that have needed an automatic retry
    v_needed_retry integer;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    v_job := jobs.lock_job(p_tenant_id, p_job_id);
    PERFORM jobs.check_etag(p_tenant_id, p_job_id, p_etag, v_job.revision);
    v_now := v_job.locked_at;
    v_expired := jobs.is_expired_at(v_job.expires_at, v_now);
    v_new_expires_at := CASE
        WHEN p_never_expires THEN NULL
        WHEN p_expires_in_hours IS NULL THEN v_job.expires_at
        ELSE greatest(v_now, v_job.start_at) + make_interval(hours => p_expires_in_hours)
    END;
    IF v_job.status = 'CANCELED' OR jobs.is_expired_at(v_new_expires_at, v_now) THEN
        PERFORM jobs.raise_error('JOB_NOT_RETRYABLE', v_job.status::text);
    END IF;

    -- Readers see the QUEUED executions of an expired job as TIMED_OUT.
    IF v_expired AND 'TIMED_OUT' = ANY (v_stored_statuses) THEN
        v_stored_statuses := 'QUEUED'::jobs.execution_status || v_stored_statuses;
    END IF;
    -- The counts are exact, so no execution is read if there is nothing to retry.
    v_failed := CASE WHEN 'FAILED' = ANY (v_stored_statuses) THEN v_job.failed ELSE 0 END;
    v_timed_out := CASE WHEN 'TIMED_OUT' = ANY (v_stored_statuses) THEN v_job.timed_out ELSE 0 END;
    v_rejected := CASE WHEN 'REJECTED' = ANY (v_stored_statuses) THEN v_job.rejected ELSE 0 END;
    v_queued := CASE WHEN 'QUEUED' = ANY (v_stored_statuses) THEN v_job.queued ELSE 0 END;
    IF num_nonnulls(p_failure_codes, p_device_ids) > 0
       AND v_failed + v_timed_out + v_rejected + v_queued > 0 THEN
        SELECT count(*) FILTER (WHERE e.status = 'FAILED'),
               count(*) FILTER (WHERE e.status = 'TIMED_OUT'),
               count(*) FILTER (WHERE e.status = 'REJECTED'),
               count(*) FILTER (WHERE e.status = 'QUEUED')
        INTO v_failed, v_timed_out, v_rejected, v_queued
        FROM jobs.job_executions e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
          AND e.status = ANY (v_stored_statuses)
          AND jobs.matches_retry(e.failure_code, e.device_id, p_failure_codes, p_device_ids);
    END IF;
    IF v_job.retrying > 0 AND NOT v_expired THEN
        SELECT count(*), array_agg(e.device_id), array_agg(e.failed_status), array_agg(e.failed_code),
               array_agg(e.stage), array_agg(e.failed_at)
        INTO v_queued_retries, v_device_ids, v_failed_statuses, v_failed_codes, v_stages, v_failed_ats
        FROM jobs.job_executions e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.status = 'QUEUED'
          AND e.failed_at IS NOT NULL AND e.failed_status = ANY (v_stored_statuses)
          AND jobs.matches_retry(e.failed_code, e.device_id, p_failure_codes, p_device_ids);
    END IF;
    v_retried := v_failed + v_timed_out + v_rejected + v_queued + v_queued_retries;
    IF v_retried = 0 THEN
        RETURN QUERY SELECT 0, v_job.expires_at, 0;
        RETURN;
    END IF;

    IF v_job.status <> 'IN_PROGRESS' AND p_max_active_jobs IS NOT NULL THEN
        PERFORM jobs.check_active_job_limit(p_tenant_id, p_job_id, p_max_active_jobs);
    END IF;

    -- Change the counts of the stages as the statements below change the executions.
    SELECT j.open_stage IS NOT NULL INTO v_has_stages
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_has_stages THEN
        PERFORM jobs.count_stage_changes(
            p_tenant_id, array_agg(p_job_id), array_agg(c.stage), array_agg(c.status),
            array_agg(CASE WHEN c.status = 'QUEUED' THEN 'TIMED_OUT'::jobs.execution_status
                           ELSE 'QUEUED' END),
            array_agg(c.executions)
        )
        FROM (
            SELECT e.stage, e.status, count(*)::integer AS executions
            FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
              AND CASE WHEN e.status = 'QUEUED'
                       THEN v_expired AND (v_queued = 0 OR e.device_id <> ALL (p_device_ids))
                       ELSE e.status = ANY (v_stored_statuses)
                            AND jobs.matches_retry(
                                e.failure_code, e.device_id, p_failure_codes, p_device_ids
                            ) END
            GROUP BY e.stage, e.status
        ) c
        HAVING count(*) > 0;
    END IF;

    -- Executions that the old expiry timed out are stored as QUEUED, so a new expiry would make
    -- readers see them as QUEUED again. Therefore TIMED_OUT is stored first: as an attempt for the
    -- executions that are retried, in the row for the others.
    IF v_expired AND v_job.queued > v_queued THEN
        v_kept_timed_out := v_job.queued - v_queued;
        UPDATE jobs.job_executions e
        SET status = 'TIMED_OUT', last_updated_at = v_job.expires_at,
            status_details = v_expired_details
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.status = 'QUEUED'
          -- They have no failure_code, so only p_device_ids can select some of them.
          AND (v_queued = 0 OR e.device_id <> ALL (p_device_ids));
    END IF;

    IF v_expired THEN
        PERFORM jobs.reset_retrying_counts(p_tenant_id, p_job_id);
    END IF;

    IF v_queued_retries > 0 THEN
        PERFORM jobs.uncount_failures(
            p_tenant_id, p_job_id, v_failed_statuses, v_failed_codes, v_stages, v_failed_ats
        );
        PERFORM jobs.change_retrying_counts(
            p_tenant_id, array_fill(p_job_id, ARRAY[v_queued_retries]), v_stages,
            array_fill(-1, ARRAY[v_queued_retries]), array_fill(0, ARRAY[v_queued_retries])
        );
        v_retried_devices := v_queued_retries;
        UPDATE jobs.job_executions e
        SET version = e.version + 1, last_updated_at = v_now, not_before = NULL, retries = 0,
            failed_status = NULL, failed_code = NULL, failed_at = NULL
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.device_id = ANY (v_device_ids);
    END IF;

    -- QUEUED comes first, because the executions that are retried become QUEUED. EXECUTE puts the
    -- status into the statement as a constant, which the predicate of the status's index matches.
    FOREACH v_status IN ARRAY v_stored_statuses LOOP
        EXECUTE format(
            $query$
            INSERT INTO jobs.execution_attempts
                (tenant_id, job_id, device_id, execution_number, version, status, queued_at,
                 started_at, last_updated_at, status_details, failure_code, end_cause,
                 reported_by)
            SELECT e.tenant_id, e.job_id, e.device_id, e.execution_number, e.version,
                   CASE WHEN e.status = 'QUEUED' THEN 'TIMED_OUT' ELSE e.status END,
                   e.queued_at, e.started_at,
                   CASE WHEN e.status = 'QUEUED' THEN $3 ELSE e.last_updated_at END,
                   CASE WHEN e.status = 'QUEUED' THEN $4 ELSE e.status_details END,
                   e.failure_code, e.end_cause, e.reported_by
            FROM jobs.job_executions e
            WHERE e.tenant_id = $1 AND e.job_id = $2 AND e.status = %L
              AND jobs.matches_retry(e.failure_code, e.device_id, $5, $6)
            $query$,
            v_status
        ) USING p_tenant_id, p_job_id, v_job.expires_at, v_expired_details, p_failure_codes,
                p_device_ids;
        -- If a cancel or an expiry ended the last attempt, the failure of the attempt before counts.
        EXECUTE format(
            $query$
            SELECT array_agg(f.status) FILTER (WHERE f.failed_at IS NOT NULL),
                   array_agg(f.failure_code) FILTER (WHERE f.failed_at IS NOT NULL),
                   array_agg(f.stage) FILTER (WHERE f.failed_at IS NOT NULL),
                   array_agg(f.failed_at) FILTER (WHERE f.failed_at IS NOT NULL),
                   count(*) FILTER (WHERE f.retries > 0)
            FROM (
                SELECT CASE WHEN e.failure_code IS NULL THEN e.failed_status ELSE e.status END
                           AS status,
                       CASE WHEN e.failure_code IS NULL THEN e.failed_code ELSE e.failure_code END
                           AS failure_code,
                       e.stage, e.retries,
                       CASE WHEN e.failure_code IS NULL THEN e.failed_at ELSE e.last_updated_at END
                           AS failed_at
                FROM jobs.job_executions e
                WHERE e.tenant_id = $1 AND e.job_id = $2 AND e.status = %L
                  AND jobs.matches_retry(e.failure_code, e.device_id, $3, $4)
            ) f
            $query$,
            v_status
        ) INTO v_failed_statuses, v_failed_codes, v_stages, v_failed_ats, v_needed_retry
        USING p_tenant_id, p_job_id, p_failure_codes, p_device_ids;
        v_retried_devices := v_retried_devices + v_needed_retry;
        IF v_failed_ats IS NOT NULL THEN
            PERFORM jobs.uncount_failures(
                p_tenant_id, p_job_id, v_failed_statuses, v_failed_codes, v_stages, v_failed_ats
            );
        END IF;
        EXECUTE format(
            $query$
            UPDATE jobs.job_executions e
            SET status = 'QUEUED', execution_number = e.execution_number + 1,
                version = e.version + 1, queued_at = $3, started_at = NULL, times_out_at = NULL,
                last_updated_at = $3, status_details = NULL, canceled_by_operator = false,
                failure_code = NULL, end_cause = NULL, not_before = NULL, retries = 0,
                failed_status = NULL, failed_code = NULL, failed_at = NULL, reported_by = NULL
            WHERE e.tenant_id = $1 AND e.job_id = $2 AND e.status = %L
              AND jobs.matches_retry(e.failure_code, e.device_id, $4, $5)
            $query$,
            v_status
        ) USING p_tenant_id, p_job_id, v_now, p_failure_codes, p_device_ids;
    END LOOP;

    UPDATE jobs.job_progress p
    SET queued = p.queued - v_queued - v_kept_timed_out + v_retried - v_queued_retries,
        failed = p.failed - v_failed,
        timed_out = p.timed_out - v_timed_out + v_kept_timed_out,
        rejected = p.rejected - v_rejected,
        retried_devices = p.retried_devices - v_retried_devices,
        has_expiry_event = false
    WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;

    UPDATE jobs.jobs j
    SET status = 'IN_PROGRESS', completed_at = NULL, expires_at = v_new_expires_at,
        finalized = false, revision = j.revision + 1,
        -- As finalize_executions does, which may not have run yet.
        awaiting_approval = j.awaiting_approval AND NOT v_expired,
        updated_at = CASE WHEN v_job.status = 'IN_PROGRESS' THEN j.updated_at ELSE v_now END
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, v_now, 'job.retried', p_user_id,
        jsonb_build_object('retried_count', v_retried)
    );

    PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_now);

    RETURN QUERY SELECT v_retried, v_new_expires_at, v_queued + v_kept_timed_out;
END $$;
