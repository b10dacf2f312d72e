-- Returns how many executions of a job finished over time, and the events that explain it, in one row.
--
-- execution_ends.sql defines when an execution counts. The bucket size is the smallest of v_sizes that is at least
-- v_fine_bucket_seconds and needs at most p_max_buckets. Empty buckets are left out.
--
-- Raises JOB_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.get_job_timeline(
    p_tenant_id text, p_job_id text, p_max_buckets integer, p_max_marks integer
) RETURNS TABLE (
    computed_at timestamptz,
    bucket_seconds integer,
    -- An element of each array is a bucket. Its start: a multiple of bucket_seconds since 1970.
    bucket_times bigint[],
    succeeded integer[],
    failed integer[],
    canceled integer[],
    expired integer[],
    marks json  -- of events, oldest first; NULL: none
)
LANGUAGE plpgsql STABLE
-- settings: tenant, page
AS $$
#variable_conflict use_column
DECLARE
    -- In seconds: 1 s, 5 s, 15 s, 1 min, 5 min, 15 min, 1 h, 3 h, 6 h, 12 h, 1 d, 7 d, 28 d, 1 year. Each is a
    -- multiple of the one before.
    v_sizes CONSTANT integer[] :=
        '{1, 5, 15, 60, 300, 900, 3600, 10800, 21600, 43200, 86400, 604800, 2419200, 31449600}';
    v_max_fine_buckets CONSTANT integer := 2000;
    v_max_examined CONSTANT integer := 5000;
    v_mark_types CONSTANT text[] := '{job.start_approved, job.stage_opened, job.stage_approved,'
        'job.stage_rejected, job.tripped, job.paused, job.resumed, job.retried, job.canceled, job.expired}';
    v_created_at timestamptz;
    v_ended_at timestamptz;  -- some executions can end later
    v_fine_bucket_seconds integer;
BEGIN
    SELECT j.created_at, coalesce(j.completed_at, j.canceled_at, least(jobs.now(), j.expires_at))
    INTO v_created_at, v_ended_at
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error('JOB_NOT_FOUND');
    END IF;

    -- Executions are first counted in fine buckets, about v_max_fine_buckets for the lifetime of the job, so that
    -- they are read only once.
    SELECT min(s.seconds) INTO v_fine_bucket_seconds
    FROM unnest(v_sizes) s (seconds)
    WHERE extract(epoch FROM v_ended_at - v_created_at) < s.seconds::bigint * v_max_fine_buckets;

    -- An earlier job may have had the same job_id. Both tables are read in one statement, because
    -- sequence_events moves events between them.
    SELECT json_agg(m.mark) INTO marks
    FROM (
        SELECT json_build_object(
                   'time', jobs.pg_micros(e.occurred_at), 'type', e.type, 'user_id', e.user_id,
                   'details', e.details
               ) AS mark
        FROM (
            SELECT e.*
            FROM (
                (SELECT false AS is_queued, e.position AS number, e.occurred_at, e.type, e.user_id, e.details
                 FROM jobs.events e
                 WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
                 ORDER BY e.position DESC
                 LIMIT v_max_examined)
                UNION ALL
                (SELECT true, q.number, q.occurred_at, q.type, q.user_id, q.details
                 FROM jobs.event_queue q
                 WHERE q.tenant_id = p_tenant_id AND q.job_id = p_job_id
                 ORDER BY q.number DESC
                 LIMIT v_max_examined)
            ) e
            WHERE e.type = ANY (v_mark_types) AND e.occurred_at >= v_created_at
            ORDER BY e.is_queued DESC, e.number DESC
            LIMIT p_max_marks
        ) e
        ORDER BY e.is_queued, e.number
    ) m;

    RETURN QUERY
    WITH ends AS MATERIALIZED (
        SELECT e.*
        FROM jobs.execution_ends(p_tenant_id, p_job_id, make_interval(secs => v_fine_bucket_seconds)) e
    ), size AS (
        SELECT coalesce(min(s.seconds), v_fine_bucket_seconds) AS seconds
        FROM (
            SELECT extract(epoch FROM min(e.bucket))::bigint AS first,
                   extract(epoch FROM max(e.bucket))::bigint AS last
            FROM ends e
        ) e
        CROSS JOIN unnest(v_sizes) s (seconds)
        WHERE s.seconds >= v_fine_bucket_seconds
          AND e.last / s.seconds - e.first / s.seconds < p_max_buckets
    ), buckets AS (
        SELECT date_bin(make_interval(secs => s.seconds), e.bucket, 'epoch') AS time,
               coalesce(sum(e.number) FILTER (WHERE e.outcome = 'SUCCEEDED'), 0)::integer AS succeeded,
               coalesce(sum(e.number) FILTER (WHERE e.outcome = 'FAILED'), 0)::integer AS failed,
               coalesce(sum(e.number) FILTER (WHERE e.outcome = 'CANCELED'), 0)::integer AS canceled,
               coalesce(sum(e.number) FILTER (WHERE e.outcome = 'EXPIRED'), 0)::integer AS expired
        FROM ends e
        CROSS JOIN size s
        GROUP BY 1
        ORDER BY 1
    )
    SELECT jobs.now(), (SELECT s.seconds FROM size s), array_agg(extract(epoch FROM b.time)::bigint),
           array_agg(b.succeeded), array_agg(b.failed), array_agg(b.canceled), array_agg(b.expired), marks
    FROM buckets b;
END $$;
