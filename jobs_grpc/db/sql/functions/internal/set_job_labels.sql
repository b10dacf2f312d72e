-- Replaces the labels of a job, in its row and in job_labels. The caller has set the tenant, and holds
-- the job lock.
CREATE OR REPLACE FUNCTION jobs.set_job_labels(
    p_tenant_id text, p_job_id text,
    p_labels jsonb  -- NULL: none
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_created_at timestamptz;
    v_labels jsonb;
    v_old text[];
    v_new text[] := ARRAY(SELECT l.key || '=' || l.value FROM jsonb_each_text(p_labels) AS l);
BEGIN
    SELECT j.created_at, j.labels INTO v_created_at, v_labels
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF v_labels IS NOT DISTINCT FROM p_labels THEN
        RETURN;
    END IF;

    v_old := ARRAY(SELECT l.key || '=' || l.value FROM jsonb_each_text(v_labels) AS l);
    DELETE FROM jobs.job_labels l
    WHERE l.tenant_id = p_tenant_id AND l.label = ANY (v_old) AND l.created_at = v_created_at
      AND l.job_id = p_job_id;
    INSERT INTO jobs.job_labels (tenant_id, label, created_at, job_id)
    SELECT p_tenant_id, u.label, v_created_at, p_job_id
    FROM unnest(v_new) AS u (label);
    UPDATE jobs.jobs j
    SET labels = p_labels
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
END $$;
