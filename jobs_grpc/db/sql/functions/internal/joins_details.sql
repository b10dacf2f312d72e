-- Returns what a job that is or was continuous stores about joins, as JSON; last_joined_at is a number, see pg_micros.
-- The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.joins_details(p_tenant_id text, p_job_id text) RETURNS json
LANGUAGE plpgsql STABLE
-- settings: page
AS $$
BEGIN
    RETURN (
        SELECT json_build_object(
            'joined_count', j.joined_count,
            'last_joined_at', jobs.pg_micros(j.last_joined_at),
            'max_joins_per_hour', c.max_joins_per_hour,
            'is_stopped', c.is_stopped,
            'is_full', c.is_full,
            'is_behind', c.is_behind
        )
        FROM jobs.jobs j
        LEFT JOIN LATERAL (
            SELECT c.*
            FROM jobs.continuous_jobs c
            WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id
            OFFSET 0
        ) c ON true
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id
    );
END $$;
