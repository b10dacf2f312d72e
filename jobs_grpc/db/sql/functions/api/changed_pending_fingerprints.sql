-- depends on: is_pending_at, pending_text, slots_text, text_fingerprint
-- Returns the watches whose fingerprint differs from the given one, with the current fingerprint. A
-- fingerprint has 60 bits and changes when one of the device's first pending executions changes, up
-- to the limit of the watch. A given NULL differs from any fingerprint. list_watched_executions
-- computes the same fingerprint.
--
-- It also changes when a slot becomes free in a job with max_in_progress, so that a device whose
-- start was rejected learns that it can try again; see slots_text.
--
-- The server calls it only on Citus, where a call reads the rows of one tenant; otherwise it calls
-- changed_pending_fingerprints_of_tenants.
CREATE OR REPLACE FUNCTION jobs.changed_pending_fingerprints(
    p_tenant_id text,
    p_device_ids text[],     -- one per watch, as the next two
    p_limits integer[],
    p_fingerprints bigint[]
) RETURNS TABLE (
    "position" integer,  -- of the watch in p_device_ids, from 1
    fingerprint bigint
)
LANGUAGE plpgsql
-- Only the index on the device's queue delivers the order; see next_execution.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT d.ordinality::integer, p.fingerprint
    FROM unnest(p_device_ids, p_limits, p_fingerprints)
        WITH ORDINALITY AS d (device_id, page_limit, fingerprint)
    CROSS JOIN LATERAL (
        SELECT jobs.text_fingerprint(string_agg(
                   jobs.pending_text(q.job_id, q.version, q.queued_at, q.expires_at, q.slots), ','
                   ORDER BY q.queued, q.queued_at, q.job_id
               )) AS fingerprint
        FROM (
            SELECT e.job_id, e.version, e.started_at IS NULL AS queued, e.queued_at, j.expires_at,
                   CASE WHEN e.status = 'QUEUED' AND j.max_in_progress IS NOT NULL THEN (
                       SELECT jobs.slots_text(
                           j.max_in_progress, p.in_progress,
                           p.succeeded + p.failed + p.timed_out + p.rejected
                       )
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
                      e.rank, j.release_end, j.release_base, j.release_rate, j.release_since, jobs.now()
                  )
            ORDER BY e.started_at IS NULL, e.queued_at, e.job_id
            LIMIT d.page_limit
        ) q
    ) p
    WHERE p.fingerprint IS DISTINCT FROM d.fingerprint;
END $$;
