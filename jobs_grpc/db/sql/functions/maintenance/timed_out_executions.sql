-- Finds executions IN_PROGRESS past times_out_at, in the order of times_out_at: see jobs_to_finalize.
--
-- Also finds executions that a forced cancel or a deletion has ended, until finalize_executions or
-- purge_job changes their rows; time_out_executions checks the job. The search does not join the
-- job, so that the index of this table alone decides which rows it reads. due_at is times_out_at.
CREATE OR REPLACE FUNCTION jobs.timed_out_executions(
    p_limit integer, p_skip_tenant_ids text[], p_skip_job_ids text[]
) RETURNS TABLE (tenant_id text, job_id text, device_id text, due_at timestamptz)
LANGUAGE plpgsql STABLE
-- Only the index job_executions_by_times_out_at delivers the order.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT e.tenant_id, e.job_id, e.device_id, e.times_out_at
    FROM jobs.job_executions e
    WHERE e.status = 'IN_PROGRESS' AND e.times_out_at <= jobs.now()
      AND (e.tenant_id, e.job_id)
          NOT IN (SELECT * FROM unnest(p_skip_tenant_ids, p_skip_job_ids))
    ORDER BY e.times_out_at
    LIMIT p_limit;
END $$;
