-- Raises JOB_CHANGED (with the etag, the status and the open stage) unless p_etag is empty or is the etag
-- of the job, which has this revision. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.check_etag(
    p_tenant_id text, p_job_id text, p_etag text, p_revision integer
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_job record;
BEGIN
    IF p_etag <> '' AND p_etag <> p_revision::text THEN
        SELECT s.status, j.open_stage INTO v_job
        FROM jobs.job_states s
        JOIN jobs.jobs j ON j.tenant_id = s.tenant_id AND j.job_id = s.job_id
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id;
        PERFORM jobs.raise_error(
            'JOB_CHANGED', '',
            jsonb_build_object(
                'etag', p_revision::text, 'status', v_job.status, 'open_stage', v_job.open_stage
            )
        );
    END IF;
END $$;
