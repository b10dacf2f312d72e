-- Pauses or cancels a job if one of its failure criteria trips, and returns whether one has. The
-- caller holds the job lock, has just changed the counts or the criteria, and has set the tenant.
CREATE OR REPLACE FUNCTION jobs.apply_failure_criteria(
    p_tenant_id text, p_job_id text, p_now timestamptz
) RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    RETURN false;
END $$;
