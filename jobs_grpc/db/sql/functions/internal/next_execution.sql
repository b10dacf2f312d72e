-- Returns the job of a device's next execution: the oldest that is IN_PROGRESS, otherwise the
-- oldest that is QUEUED, is released, and whose job has fewer than max_in_progress IN_PROGRESS. NULL:
-- the device has no such execution. The caller has set the tenant.
--
-- Reads the device's queue in order and stops at the first execution that readers see as pending.
-- See docs/decisions/plans.md for the form of the query.
CREATE OR REPLACE FUNCTION jobs.next_execution(
    p_tenant_id text, p_device_id text
) RETURNS text
-- Not LANGUAGE sql: before PostgreSQL 18, such a function is planned on every call.
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
BEGIN
    RETURN (
        SELECT e.job_id
        FROM jobs.job_executions e
        CROSS JOIN LATERAL (
            SELECT j.canceled_at, j.force_canceled, j.expires_at, j.paused_at, j.deleted_at,
                   j.max_in_progress, j.release_end, j.release_base, j.release_rate,
                   j.release_since
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = e.job_id
            OFFSET 0
        ) j
        WHERE e.tenant_id = p_tenant_id AND e.device_id = p_device_id
          AND e.status IN ('QUEUED', 'IN_PROGRESS')
          AND j.deleted_at IS NULL
          AND jobs.is_pending_at(
                  e.status, j.canceled_at, j.force_canceled, j.expires_at, j.paused_at,
                  e.rank, j.release_end, j.release_base, j.release_rate, j.release_since, jobs.now()
              )
          AND CASE WHEN e.status = 'QUEUED' AND j.max_in_progress IS NOT NULL THEN (
                  SELECT p.in_progress FROM jobs.job_progress p
                  WHERE p.tenant_id = p_tenant_id AND p.job_id = e.job_id
              ) < j.max_in_progress ELSE true END
        ORDER BY e.started_at IS NULL, e.queued_at, e.job_id
        LIMIT 1
    );
END $$;
