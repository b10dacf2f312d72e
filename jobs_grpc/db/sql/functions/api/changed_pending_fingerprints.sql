-- Returns the watches whose fingerprint differs from the given one, with the current fingerprint. A
-- fingerprint has 60 bits and changes when one of the device's first pending executions changes, up
-- to the limit of the watch. A given NULL differs from any fingerprint. list_watched_executions
-- computes the same fingerprint.
--
-- It also changes when a slot becomes free in a job with max_in_progress, so that a device whose
-- start was rejected learns that it can try again, and when an execution no longer waits.
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
-- settings: tenant, page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT d.ordinality::integer, p.fingerprint
    FROM unnest(p_device_ids, p_limits, p_fingerprints)
        WITH ORDINALITY AS d (device_id, page_limit, fingerprint)
    CROSS JOIN LATERAL (
        SELECT jobs.text_fingerprint(
                   string_agg(
                       q.state, ',' ORDER BY q.is_queued, q.queue_order, q.queued_at, q.job_id
                   )
               ) AS fingerprint
        FROM (
            SELECT q.state, q.is_queued, q.queue_order, q.queued_at, q.job_id
            FROM jobs.pending_executions q
            WHERE q.tenant_id = p_tenant_id AND q.device_id = d.device_id
              AND NOT q.is_waiting_in_watch
            ORDER BY q.is_queued, q.queue_order, q.queued_at, q.job_id
            LIMIT d.page_limit
        ) q
    ) p
    WHERE p.fingerprint IS DISTINCT FROM d.fingerprint;
END $$;
