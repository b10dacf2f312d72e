-- Ends the joins of a continuous job, or changes how many devices may join in an hour. The caller holds the job lock
-- and has set the tenant.
--
-- Raises JOB_NOT_CONTINUOUS (with the field), unless the job is to stay one that is not continuous.
CREATE OR REPLACE FUNCTION jobs.update_continuous_job(
    p_tenant_id text, p_job_id text,
    p_fields text[],               -- as in UpdateJobRequest.update_mask
    p_continuous boolean,
    p_max_joins_per_hour integer,  -- NULL: the default
    p_is_expired boolean           -- the job
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_is_continuous boolean;
BEGIN
    SELECT j.is_continuous AND NOT p_is_expired INTO v_is_continuous
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
    IF NOT v_is_continuous AND (p_continuous OR 'max_joins_per_hour' = ANY (p_fields)) THEN
        PERFORM jobs.raise_error(
            'JOB_NOT_CONTINUOUS',
            CASE WHEN 'max_joins_per_hour' = ANY (p_fields) THEN 'max_joins_per_hour' ELSE 'continuous' END
        );
    ELSIF NOT v_is_continuous THEN
        RETURN;
    END IF;

    IF 'max_joins_per_hour' = ANY (p_fields) THEN
        -- For the current hour as well. Its default is computed when it begins.
        UPDATE jobs.continuous_jobs c
        SET max_joins_per_hour = p_max_joins_per_hour,
            hour_started_at = CASE WHEN p_max_joins_per_hour IS NOT NULL THEN c.hour_started_at END
        WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;
    END IF;
    IF 'continuous' = ANY (p_fields) AND NOT p_continuous THEN
        UPDATE jobs.jobs j
        SET is_continuous = false
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;
        DELETE FROM jobs.continuous_jobs c WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id;
    END IF;
END $$;
