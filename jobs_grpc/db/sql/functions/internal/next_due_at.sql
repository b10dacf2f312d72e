-- Returns when the first of a device's waiting executions is due, plus its opening_delay if it has start
-- windows. NULL: none waits. Examines only the first 100 waiting executions of the queue. The caller has set
-- the tenant and has the settings `page`.
CREATE OR REPLACE FUNCTION jobs.next_due_at(p_tenant_id text, p_device_id text) RETURNS timestamptz
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    -- An opening takes about a millisecond, so it is computed once for all executions with the same windows
    -- and zone. The one with the earliest not_before is due first.
    RETURN (
        SELECT min(
            jobs.due_at(s.not_before, s.start_windows, s.time_zone, jobs.now())
            + make_interval(
                secs => CASE WHEN s.start_windows IS NULL THEN 0
                             ELSE jobs.opening_delay(p_device_id) END
            )
        )
        FROM (
            SELECT q.start_windows, q.time_zone,
                   min(coalesce(q.not_before, '-infinity')) AS not_before
            FROM (
                SELECT q.start_windows, q.time_zone, q.not_before
                FROM jobs.pending_executions q
                WHERE q.tenant_id = p_tenant_id AND q.device_id = p_device_id AND q.is_waiting
                ORDER BY q.is_queued, q.queue_order, q.queued_at, q.job_id
                LIMIT 100
            ) q
            GROUP BY q.start_windows, q.time_zone
        ) s
    );
END $$;
