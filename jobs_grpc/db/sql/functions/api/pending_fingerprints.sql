-- For servers of the previous version only; this version calls changed_pending_fingerprints.
--
-- Returns a fingerprint for each device: a text that changes when the device's pending executions
-- change. It covers the first 101, which is one more than a response can hold. It also changes when
-- a slot becomes free in a job with max_in_progress, so that a device whose start was rejected learns
-- that it can try again. While the job is full, the fingerprint has no count, because it would change
-- with each execution that finishes, although its slot is taken at once.
CREATE OR REPLACE FUNCTION jobs.pending_fingerprints(
    p_tenant_id text, p_device_ids text[]
) RETURNS TABLE (device_id text, fingerprint text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- Planning takes longer than reading a few rows of an index.
SET plan_cache_mode = force_generic_plan
-- Only the index on the device's queue delivers the order; see next_execution.
SET enable_sort = off
SET jit = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT d.device_id, p.fingerprint
    FROM unnest(p_device_ids) AS d (device_id)
    CROSS JOIN LATERAL (
        SELECT coalesce(string_agg(
                   q.job_id || ' ' || q.version || coalesce(' ' || q.slots, ''),
                   ',' ORDER BY q.job_id
               ), '')
            AS fingerprint
        FROM (
            SELECT e.job_id, e.version,
                   CASE WHEN e.status = 'QUEUED' AND j.max_in_progress IS NOT NULL THEN (
                       SELECT CASE WHEN p.in_progress >= j.max_in_progress THEN 'full'
                                   -- The job can have been full since the last poll.
                                   ELSE concat(
                                       j.max_in_progress, '/',
                                       p.succeeded + p.failed + p.timed_out + p.rejected
                                   ) END
                       FROM jobs.job_progress p
                       WHERE p.tenant_id = p_tenant_id AND p.job_id = e.job_id
                   ) END AS slots
            FROM jobs.job_executions e
            CROSS JOIN LATERAL (
                SELECT j.canceled_at, j.force_canceled, j.expires_at, j.paused_at, j.deleted_at,
                       j.max_in_progress, j.release_end, j.release_base, j.release_rate,
                       j.release_since
                FROM jobs.jobs j
                WHERE j.tenant_id = p_tenant_id AND j.job_id = e.job_id
                OFFSET 0
            ) j
            WHERE e.tenant_id = p_tenant_id AND e.device_id = d.device_id
              AND e.status IN ('QUEUED', 'IN_PROGRESS')
              AND j.deleted_at IS NULL
              AND jobs.is_pending_at(
                      e.status, j.canceled_at, j.force_canceled, j.expires_at, j.paused_at,
                      e.rank, j.release_end, j.release_base, j.release_rate, j.release_since, now()
                  )
            ORDER BY e.started_at IS NULL, e.queued_at, e.job_id
            LIMIT 101
        ) q
    ) p;
END $$;
