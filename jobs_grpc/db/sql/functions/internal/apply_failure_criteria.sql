-- depends on: released_at
-- Pauses or cancels a job if one of its failure criteria trips, and returns whether one has tripped. If
-- several trip, the first criterion applies, with the first of its stages. Does nothing if the job is
-- paused or finished. The caller holds the job lock, has just changed the counts or the criteria, and
-- has set the tenant.
--
-- Checking at these changes is enough, because no criterion can trip by the passing of time: of the
-- three bases, it changes only RELEASED, which grows, and that lowers the percentage.
--
-- A retry can raise a percentage of FINISHED above its limit, although no device failed. So executions
-- that succeed trip only criteria whose min_finished they reach.
--
-- For a criterion with the scope STAGE, reads only the stages in p_stages, because no others changed.
CREATE OR REPLACE FUNCTION jobs.apply_failure_criteria(
    p_tenant_id text,
    p_job_id text,
    p_now timestamptz,
    p_finished integer,  -- how many have just SUCCEEDED; NULL: one has failed, or the criteria changed
    p_stages smallint[]  -- stages of executions that have just finished, with duplicates; NULL: all
) RETURNS boolean
LANGUAGE plpgsql
-- settings: lookup, nested loops
AS $$
DECLARE
    v_job record;
    v_trip record;
    v_reason text;
BEGIN
    -- The conditions are not in WHERE. There, the planner could use an index for them, and read other
    -- jobs.
    SELECT p.queued + p.in_progress + p.succeeded + p.failed + p.timed_out + p.rejected AS total,
           jobs.released_at(
               j.release_end, j.release_base, j.release_rate, j.release_since, NULL, p_now
           ) AS released,
           p.succeeded + (
               SELECT coalesce(sum(f.executions), 0)::integer
               FROM jobs.job_failures f
               WHERE f.tenant_id = p_tenant_id AND f.job_id = p_job_id
           ) AS finished,
           j.status = 'IN_PROGRESS' AND j.paused_at IS NULL
           AND (p.in_progress > 0 OR p.queued > 0 AND NOT jobs.is_expired_at(j.expires_at, p_now))
               AS is_running
    INTO v_job
    FROM jobs.jobs j
    JOIN jobs.job_progress p ON p.tenant_id = j.tenant_id AND p.job_id = j.job_id
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF NOT v_job.is_running THEN
        RETURN false;
    END IF;

    SELECT c.*, n.failures, nullif(changed.stage, -1) AS stage, basis.size AS basis_size
    INTO v_trip
    FROM jobs.job_failure_criteria c
    CROSS JOIN (
        SELECT -1 AS stage, p_finished AS finished
        UNION ALL
        SELECT u.stage, count(*)
        FROM unnest(coalesce(p_stages, ARRAY(
            SELECT s.stage FROM jobs.job_stages s
            WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
        ))) AS u (stage)
        GROUP BY u.stage
    ) changed
    CROSS JOIN LATERAL (
        SELECT n.failures, n.finished_before
        FROM jobs.job_criterion_counts n
        WHERE n.tenant_id = p_tenant_id AND n.job_id = p_job_id AND n.criterion = c.criterion
          AND n.stage = changed.stage
        OFFSET 0
    ) n
    LEFT JOIN LATERAL (
        SELECT s.first_rank, s.last_rank, s.succeeded + s.failures AS finished
        FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = changed.stage
        OFFSET 0
    ) s ON true
    CROSS JOIN LATERAL (
        SELECT coalesce(s.finished, v_job.finished) - n.finished_before AS finished,
               coalesce(s.last_rank - s.first_rank + 1, v_job.total) AS targeted,
               CASE WHEN v_job.released IS NULL THEN v_job.total
                    WHEN changed.stage = -1 THEN v_job.released
                    ELSE greatest(least(v_job.released, s.last_rank) - s.first_rank + 1, 0)
               END AS released
    ) sizes
    CROSS JOIN LATERAL (
        SELECT CASE WHEN c.percent IS NULL THEN 0
                    WHEN c.basis = 'TARGETED' THEN sizes.targeted
                    WHEN c.basis = 'RELEASED' THEN sizes.released
                    ELSE sizes.finished END::bigint AS size
    ) basis
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
      AND n.failures > 0
      AND (p_finished IS NULL OR sizes.finished - changed.finished < c.min_finished)
      AND (n.failures >= c.count
           OR basis.size > 0 AND sizes.finished >= c.min_finished
              AND n.failures * 100::bigint >= c.percent * basis.size)
    ORDER BY c.criterion, changed.stage
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
            'criterion', jsonb_build_object(
                'statuses', v_trip.statuses,
                'failure_codes', v_trip.failure_codes,
                'percent', v_trip.percent,
                'count', v_trip.count,
                'basis', v_trip.basis,
                'min_finished', v_trip.min_finished,
                'scope', v_trip.scope,
                'action', v_trip.action
            ),
            'stage', v_trip.stage,
            'failure_count', v_trip.failures,
            'basis_count', v_trip.basis_size
        )
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_trip.action = 'PAUSE' THEN
        PERFORM jobs.set_paused(
            p_tenant_id, p_job_id, p_now, 'FAILURE_CRITERION', v_reason, NULL
        );
    ELSE
        PERFORM jobs.set_canceled(
            p_tenant_id, p_job_id, p_now, v_reason, v_trip.action = 'FORCE_CANCEL'
        );
    END IF;
    RETURN true;
END $$;
