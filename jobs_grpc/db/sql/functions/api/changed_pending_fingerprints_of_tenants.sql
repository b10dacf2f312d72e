-- Like changed_pending_fingerprints, for devices of many tenants in one statement; see
-- changed_job_fingerprints_of_tenants.
CREATE OR REPLACE FUNCTION jobs.changed_pending_fingerprints_of_tenants(
    p_tenant_ids text[],     -- one per watch, like the next three
    p_device_ids text[],
    p_limits integer[],
    p_fingerprints bigint[]
) RETURNS TABLE (
    "position" integer,  -- of the watch in p_device_ids, from 1
    fingerprint bigint
)
LANGUAGE plpgsql
-- Only the index on the device's queue delivers the order; see next_execution.
-- settings: page, no memoize
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT d.ordinality::integer, p.fingerprint
    FROM unnest(p_tenant_ids, p_device_ids, p_limits, p_fingerprints)
        WITH ORDINALITY AS d (tenant_id, device_id, page_limit, fingerprint)
    CROSS JOIN LATERAL (
        SELECT set_config('app.tenant_id', d.tenant_id, true) AS tenant_id OFFSET 0
    ) t
    CROSS JOIN LATERAL (
        SELECT jobs.text_fingerprint(
                   string_agg(
                       q.state, ',' ORDER BY q.is_queued, q.queue_order, q.queued_at, q.job_id
                   )
               ) AS fingerprint
        FROM (
            SELECT q.state, q.is_queued, q.queue_order, q.queued_at, q.job_id
            FROM jobs.pending_executions q
            WHERE q.tenant_id = t.tenant_id AND q.device_id = d.device_id
              AND NOT q.is_waiting_in_watch
            ORDER BY q.is_queued, q.queue_order, q.queued_at, q.job_id
            LIMIT d.page_limit
        ) q
    ) p
    WHERE p.fingerprint IS DISTINCT FROM d.fingerprint;

    PERFORM set_config('app.tenant_id', '', true);
END $$;
