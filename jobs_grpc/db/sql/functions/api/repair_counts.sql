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
-- settings: tenant, index, no jit, lock timeout
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_status jobs.execution_status;
BEGIN
    SELECT l.locked_at INTO v_now FROM jobs.lock_job(p_tenant_id, p_job_id) l;
    FOR table_name, key, column_name, stored, counted IN
        SELECT r.*
        FROM jobs.recount(p_tenant_id, p_job_id) r
        ORDER BY r.table_name, r.key, r.column_name
    LOOP
        RETURN NEXT;
        CONTINUE WHEN table_name IN ('jobs', 'job_executions')
            OR table_name = 'job_stages' AND column_name = 'executions';
        -- These two tables have no row for what has not occurred yet.
        IF table_name = 'job_failures' THEN
            v_status := key ->> 'status';
            INSERT INTO jobs.job_failures (tenant_id, job_id, status, failure_code, executions)
            VALUES (p_tenant_id, p_job_id, v_status, key ->> 'failure_code', 0)
            ON CONFLICT DO NOTHING;
        ELSIF table_name = 'job_criterion_counts' THEN
            INSERT INTO jobs.job_criterion_counts (tenant_id, job_id, criterion, stage)
            VALUES (p_tenant_id, p_job_id, (key ->> 'criterion')::smallint, (key ->> 'stage')::smallint)
            ON CONFLICT DO NOTHING;
        END IF;
        EXECUTE format(
            'UPDATE jobs.%I t SET %I = $1'
            ' WHERE t.tenant_id = $2 AND t.job_id = $3 AND to_jsonb(t) @> $4',
            table_name, column_name
        ) USING counted, p_tenant_id, p_job_id, key;
    END LOOP;
    PERFORM jobs.complete_finished_jobs(p_tenant_id, ARRAY[p_job_id], v_now);
    PERFORM jobs.apply_rollout_rules(p_tenant_id, p_job_id, v_now);
END $$;
