-- Returns the number of devices of the tenant by last seen, the number of its active jobs, and the failures of
-- these jobs by status and code: the p_max_failures most frequent ones, as JSON, and the number of other failures.
--
-- Reads all devices: no index has the time at which they were last seen, because each call of a device would have to
-- change it. Reads at most p_max_jobs active jobs, those that expire last.
CREATE OR REPLACE FUNCTION jobs.get_fleet_summary(
    p_tenant_id text,
    p_max_jobs integer,
    p_max_failures integer,
    OUT computed_at timestamptz,
    -- each device is counted in the first of these columns that applies
    OUT seen_within_hour integer,
    OUT seen_within_day integer,
    OUT seen_within_week integer,
    OUT seen_earlier integer,
    OUT never_seen integer,
    OUT in_progress integer,
    OUT paused integer,
    OUT scheduled integer,
    OUT awaiting_approval integer, -- in any of these statuses
    OUT failures jsonb,            -- FleetFailureCount of fleet.proto
    OUT other_failure_count integer
)
LANGUAGE plpgsql STABLE  -- see set_read_time
-- The devices are merged in the order of device_id, and only jobs_in_progress_by_expires_at has the order of the jobs.
-- settings: tenant, page, merge join
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := jobs.clock_time();
    v_hour_ago timestamptz := v_now - interval '1 hour';
    v_day_ago timestamptz := v_now - interval '24 hours';
    v_week_ago timestamptz := v_now - interval '168 hours';
BEGIN
    PERFORM jobs.set_read_time(v_now);
    computed_at := v_now;

    SELECT count(*) FILTER (WHERE l.last_seen_at >= v_hour_ago),
           count(*) FILTER (WHERE l.last_seen_at >= v_day_ago AND l.last_seen_at < v_hour_ago),
           count(*) FILTER (WHERE l.last_seen_at >= v_week_ago AND l.last_seen_at < v_day_ago),
           count(*) FILTER (WHERE l.last_seen_at < v_week_ago),
           count(*) FILTER (WHERE l.last_seen_at IS NULL)
    INTO seen_within_hour, seen_within_day, seen_within_week, seen_earlier, never_seen
    FROM public.device_state d
    LEFT JOIN jobs.devices l
        ON l.tenant_id = p_tenant_id AND l.device_id = d.device_id COLLATE "C"
    WHERE d.tenant_id = p_tenant_id;

    WITH active AS MATERIALIZED (
        SELECT unfinished.job_id, unfinished.awaiting_approval, state.status
        FROM (
            SELECT j.job_id, j.status, j.expires_at, j.paused_at, j.start_at,
                   -- A job that has expired opens no stage.
                   (j.awaiting_approval OR j.start_approval IS NOT NULL AND j.start_approval = '{}')
                       AND NOT jobs.is_expired_at(j.expires_at, jobs.now()) AS awaiting_approval
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.status = 'IN_PROGRESS' AND j.deleted_at IS NULL
            ORDER BY j.expires_at DESC
            LIMIT p_max_jobs
        ) unfinished
        CROSS JOIN LATERAL (
            SELECT jobs.job_status_with_pause_at(
                unfinished.status, unfinished.expires_at, p.in_progress, unfinished.paused_at,
                unfinished.start_at IS NOT NULL AND unfinished.start_at > jobs.read_time(), jobs.now()
            ) AS status
            FROM jobs.job_progress p
            WHERE p.tenant_id = p_tenant_id AND p.job_id = unfinished.job_id
            OFFSET 0
        ) state
        WHERE state.status <> 'COMPLETED'
    ), codes AS MATERIALIZED (
        SELECT f.status, f.failure_code, sum(f.executions)::integer AS execution_count,
               count(*) AS job_count,
               (array_agg(a.job_id ORDER BY f.executions DESC, a.job_id))[:3] AS job_ids,
               -- The code '*' stands for the failures of a job that have no count of their own.
               f.failure_code <> '*'
                   AND row_number() OVER (
                       ORDER BY f.failure_code = '*', sum(f.executions) DESC, f.status, f.failure_code
                   ) <= p_max_failures AS is_listed
        FROM active a
        CROSS JOIN LATERAL (
            SELECT f.status, f.failure_code, f.executions
            FROM jobs.job_failures f
            WHERE f.tenant_id = p_tenant_id AND f.job_id = a.job_id AND f.executions > 0
            OFFSET 0
        ) f
        GROUP BY f.status, f.failure_code
    )
    SELECT total.in_progress, total.paused, total.scheduled, total.awaiting_approval,
           listed.failures, listed.other_failure_count
    INTO in_progress, paused, scheduled, awaiting_approval, failures, other_failure_count
    FROM (
        SELECT count(*) FILTER (WHERE a.status = 'IN_PROGRESS') AS in_progress,
               count(*) FILTER (WHERE a.status = 'PAUSED') AS paused,
               count(*) FILTER (WHERE a.status = 'SCHEDULED') AS scheduled,
               count(*) FILTER (WHERE a.awaiting_approval) AS awaiting_approval
        FROM active a
    ) total
    CROSS JOIN (
        SELECT coalesce(
                   jsonb_agg(
                       jsonb_build_object(
                           'status', c.status, 'failure_code', c.failure_code,
                           'execution_count', c.execution_count, 'job_count', c.job_count,
                           'job_ids', c.job_ids
                       )
                       ORDER BY c.execution_count DESC, c.status, c.failure_code
                   ) FILTER (WHERE c.is_listed),
                   '[]'
               ) AS failures,
               coalesce(sum(c.execution_count) FILTER (WHERE NOT c.is_listed), 0)
                   AS other_failure_count
        FROM codes c
    ) listed;
END $$;
