-- Returns what create_job returned when it created this job; NULL: there is no such job. The caller has set the
-- tenant.
--
-- Raises JOB_ALREADY_EXISTS if a different request created the job, or if it is deleted.
CREATE OR REPLACE FUNCTION jobs.repeated_job(
    p_tenant_id text, p_job_id text,
    p_request jsonb,
    p_document_params jsonb,
    OUT status text,
    OUT execution_count integer,
    OUT start_at timestamptz,
    OUT expires_at timestamptz
)
LANGUAGE plpgsql
-- settings: index
AS $$
DECLARE
    v_job record;
BEGIN
    -- One statement, so that no DeleteJob comes between the job and its count.
    SELECT j.created_at, j.expires_in_hours, j.request, j.document_params, j.deleted_at, (
               SELECT s.total_executions - coalesce(s.joined_count, 0)
               FROM jobs.job_states s
               WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
           ) AS total_executions
    INTO v_job
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF v_job.deleted_at IS NOT NULL
        OR v_job.request IS DISTINCT FROM p_request
        OR v_job.document_params <> p_document_params
    THEN
        PERFORM jobs.raise_error(
            'JOB_ALREADY_EXISTS', '', jsonb_build_object('deleted', v_job.deleted_at IS NOT NULL)
        );
    END IF;
    -- From the request, because UpdateJob can have changed the columns.
    start_at := greatest((v_job.request ->> 'start_at')::timestamptz, v_job.created_at);
    expires_at := start_at + make_interval(hours => v_job.expires_in_hours);
    status := CASE WHEN v_job.request ? 'require_start_approval' THEN 'PAUSED'
                   WHEN start_at > v_job.created_at THEN 'SCHEDULED'
                   ELSE 'IN_PROGRESS' END;
    execution_count := v_job.total_executions;
END $$;
