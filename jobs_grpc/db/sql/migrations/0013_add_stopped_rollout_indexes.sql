-- outside a transaction
-- Both for stopped_rollouts.sql, across tenants. A job leaves the first when it is resumed, approved or
-- finished, and the second when it is deleted.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_waiting_by_pause_cause ON jobs.jobs (pause_cause)
    WHERE (awaiting_approval OR pause_cause IS NOT NULL) AND status = 'IN_PROGRESS'
      AND deleted_at IS NULL;

CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_tripped_by_canceled_at ON jobs.jobs (canceled_at)
    WHERE trip IS NOT NULL AND status = 'CANCELED' AND deleted_at IS NULL;
