-- Pauses or cancels a job if one of its failure criteria trips, and returns whether one has tripped. If
-- several trip, the first criterion applies, with the first of its stages. Does nothing if the job is
-- paused or finished. The caller holds the job lock, has just changed the counts or the criteria, and
-- has set the tenant.
--
-- Checking at these changes is enough, because no criterion can trip by the passing of time: of the
-- three bases, it changes only RELEASED, which grows, and that lowers the percentage.
--
-- A retry can raise a percentage of FINISHED above its limit, although no device failed. So executions
-- that succeed trip only criteria whose min_finished they reach. A device that succeeds after a failure was
-- already counted as finished, unless the criterion no longer counts its failure.
--
-- For a criterion with the scope STAGE, reads only the stages in p_stages, because no others changed.
CREATE OR REPLACE FUNCTION jobs.apply_failure_criteria(
    p_tenant_id text, p_job_id text, p_now timestamptz,
    p_has_failures boolean,  -- an execution has just failed, or the criteria changed; false: all SUCCEEDED
    p_stages smallint[], -- stages of executions that have just finished, with duplicates; NULL: all
    p_failed_ats timestamptz[]  -- parallel to p_stages: failed_at before they finished
) RETURNS boolean
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    v_is_running boolean;
    v_trip record;
    v_reason text;
BEGIN
    -- The conditions are not in WHERE. There, the planner could use an index for them, and read other
    -- jobs.
    SELECT j.status = 'IN_PROGRESS' AND j.paused_at IS NULL
           -- Devices that join and fail one by one trip a criterion, too.
           AND (p.in_progress > 0
                OR (p.queued > 0 OR j.is_continuous) AND NOT jobs.is_expired_at(j.expires_at, p_now))
    INTO v_is_running
    FROM jobs.jobs j
    JOIN jobs.job_progress p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF NOT v_is_running THEN
        RETURN false;
    END IF;

    SELECT c.*, s.failures, nullif(s.stage, -1) AS stage, s.basis_size
    INTO v_trip
    FROM jobs.criterion_states(p_tenant_id, p_job_id, p_now, p_stages) s
    CROSS JOIN LATERAL (
        SELECT c.*
        FROM jobs.job_failure_criteria c
        WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id AND c.criterion = s.criterion
        OFFSET 0
    ) c
    WHERE s.failures > 0 AND s.failures >= s.threshold
      AND (c.percent IS NULL OR s.finished >= c.min_finished)
      AND (p_has_failures
           OR s.finished - (
                  SELECT count(*)
                  FROM unnest(p_stages, p_failed_ats) AS u (stage, failed_at)
                  WHERE s.stage IN (-1, u.stage)
                    AND (u.failed_at IS NULL OR u.failed_at <= c.counts_since)
              ) < c.min_finished)
    ORDER BY s.criterion, s.stage
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;

    v_reason := CASE
            WHEN v_trip.percent IS NOT NULL THEN format(
                '%s of %s %s executions failed', v_trip.failures, v_trip.basis_size,
                lower(v_trip.basis)
            )
            WHEN v_trip.failures = 1 THEN '1 execution failed'
            ELSE format('%s executions failed', v_trip.failures)
        END
        || coalesce(' in stage ' || v_trip.stage, '')
        || format(
            ' (%s at %s)', replace(lower(v_trip.action), '_', ' '),
            coalesce(v_trip.percent || '%', v_trip.count::text)
        );
    UPDATE jobs.jobs j
    SET trip = jsonb_build_object(
            'tripped_at', p_now,
            'criterion',
                to_jsonb(v_trip) - '{tenant_id,job_id,criterion,counts_since,failures,stage,basis_size}'::text[],
            'stage', v_trip.stage,
            'failure_count', v_trip.failures,
            'basis_count', v_trip.basis_size
        )
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    PERFORM jobs.add_event(
        p_tenant_id, p_job_id, p_now, 'job.tripped', NULL,
        jsonb_strip_nulls(jsonb_build_object('reason', v_reason, 'stage', v_trip.stage))
    );
    IF v_trip.action = 'PAUSE' THEN
        PERFORM jobs.set_paused(
            p_tenant_id, p_job_id, p_now, 'FAILURE_CRITERION', v_reason, NULL
        );
    ELSE
        PERFORM jobs.set_canceled(
            p_tenant_id, p_job_id, p_now, 'FAILURE_CRITERION', v_reason,
            v_trip.action = 'FORCE_CANCEL', NULL
        );
    END IF;
    RETURN true;
END $$;
