-- Sets the stored counts of a job that differ from its executions, and returns what differed: see recount. Then
-- completes the job if no execution is pending, and opens its next stage if the gate is met.
--
-- Does not change what is not a count: executions whose columns contradict each other, and the ranks of a stage.
--
-- Raises JOB_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.repair_counts(
    p_tenant_id text, p_job_id text
) RETURNS TABLE (
    table_name text,
    key jsonb,
    column_name text,
    stored bigint,
    counted bigint
)
LANGUAGE plpgsql
-- settings: index, no jit, lock timeout
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_row record;     -- of a table with counts: its key, and those of its columns that differ
    v_counts jsonb;
    v_status jobs.execution_status;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    SELECT l.locked_at INTO v_now FROM jobs.lock_job(p_tenant_id, p_job_id) l;
    FOR v_row IN
        SELECT r.table_name, r.key, jsonb_object_agg(r.column_name, r.stored) AS stored,
               jsonb_object_agg(r.column_name, r.counted) AS counted
        FROM jobs.recount(p_tenant_id, p_job_id) r
        GROUP BY r.table_name, r.key
        ORDER BY r.table_name, r.key
    LOOP
        v_counts := v_row.counted;
        IF v_row.table_name = 'job_progress' THEN
            UPDATE jobs.job_progress p
            SET queued = coalesce((v_counts ->> 'queued')::integer, p.queued),
                in_progress = coalesce((v_counts ->> 'in_progress')::integer, p.in_progress),
                succeeded = coalesce((v_counts ->> 'succeeded')::integer, p.succeeded),
                failed = coalesce((v_counts ->> 'failed')::integer, p.failed),
                timed_out = coalesce((v_counts ->> 'timed_out')::integer, p.timed_out),
                rejected = coalesce((v_counts ->> 'rejected')::integer, p.rejected),
                retrying = coalesce((v_counts ->> 'retrying')::integer, p.retrying),
                retrying_in_progress
                    = coalesce((v_counts ->> 'retrying_in_progress')::integer, p.retrying_in_progress),
                retried_devices
                    = coalesce((v_counts ->> 'retried_devices')::integer, p.retried_devices)
            WHERE p.tenant_id = p_tenant_id AND p.job_id = p_job_id;
        ELSIF v_row.table_name = 'job_stages' THEN
            UPDATE jobs.job_stages s
            SET queued = coalesce((v_counts ->> 'queued')::integer, s.queued),
                in_progress = coalesce((v_counts ->> 'in_progress')::integer, s.in_progress),
                succeeded = coalesce((v_counts ->> 'succeeded')::integer, s.succeeded),
                failed = coalesce((v_counts ->> 'failed')::integer, s.failed),
                timed_out = coalesce((v_counts ->> 'timed_out')::integer, s.timed_out),
                rejected = coalesce((v_counts ->> 'rejected')::integer, s.rejected),
                retrying = coalesce((v_counts ->> 'retrying')::integer, s.retrying),
                retrying_in_progress
                    = coalesce((v_counts ->> 'retrying_in_progress')::integer, s.retrying_in_progress),
                failures = coalesce((v_counts ->> 'failures')::integer, s.failures)
            WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
              AND s.stage = (v_row.key ->> 'stage')::smallint;
        ELSIF v_row.table_name = 'job_failures' THEN
            v_status := v_row.key ->> 'status';
            INSERT INTO jobs.job_failures (tenant_id, job_id, status, failure_code, executions)
            VALUES (p_tenant_id, p_job_id, v_status, v_row.key ->> 'failure_code',
                    (v_counts ->> 'executions')::integer)
            ON CONFLICT (tenant_id, job_id, status, failure_code)
                DO UPDATE SET executions = excluded.executions;
        ELSIF v_row.table_name = 'job_criterion_counts' THEN
            INSERT INTO jobs.job_criterion_counts AS c
                (tenant_id, job_id, criterion, stage, failures, finished_before)
            VALUES (p_tenant_id, p_job_id, (v_row.key ->> 'criterion')::smallint,
                    (v_row.key ->> 'stage')::smallint,
                    coalesce((v_counts ->> 'failures')::integer, 0),
                    coalesce((v_counts ->> 'finished_before')::integer, 0))
            ON CONFLICT (tenant_id, job_id, criterion, stage) DO UPDATE
            SET failures = coalesce((v_counts ->> 'failures')::integer, c.failures),
                finished_before
                    = coalesce((v_counts ->> 'finished_before')::integer, c.finished_before);
        END IF;
        RETURN QUERY
        SELECT v_row.table_name, v_row.key, c.key, (v_row.stored ->> c.key)::bigint, c.value::bigint
        FROM jsonb_each_text(v_counts) c;
    END LOOP;
    PERFORM jobs.complete_finished_jobs(p_tenant_id, ARRAY[p_job_id], v_now);
    PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_now);
END $$;
