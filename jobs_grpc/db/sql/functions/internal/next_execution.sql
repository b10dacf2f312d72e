-- Returns the job of a device's next execution: the first that is IN_PROGRESS, otherwise the first
-- that is QUEUED, is released, does not wait, and whose job has fewer than max_in_progress
-- IN_PROGRESS. NULL: the device has no such execution. The caller has set the tenant and has
-- the settings `page`.
--
-- Reads the device's queue in order and stops at the first execution that readers see as pending.
-- See docs/decisions/plans.md for the form of the query.
CREATE OR REPLACE FUNCTION jobs.next_execution(
    p_tenant_id text, p_device_id text
) RETURNS text
-- Not LANGUAGE sql: before PostgreSQL 18, such a function is planned on every call.
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN (
        SELECT q.job_id
        FROM jobs.pending_executions q
        WHERE q.tenant_id = p_tenant_id AND q.device_id = p_device_id AND q.has_slot
          AND NOT q.is_waiting
        ORDER BY q.is_queued, q.queue_order, q.queued_at, q.job_id
        LIMIT 1
    );
END $$;
