-- depends on: count_failures, count_stage_changes
-- Counts applied updates in the stages and the failures of their jobs. The caller holds the job locks.
CREATE OR REPLACE FUNCTION jobs.count_updates(
    p_tenant_id text, p_updates jobs.decided_update[]
) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM jobs.count_stage_changes(
        p_tenant_id, array_agg(u.job_id), array_agg(u.stage), array_agg(u.previous_status),
        array_agg(u.new_status)
    )
    FROM unnest(p_updates) u
    WHERE u.outcome = 'APPLIED' AND u.stage IS NOT NULL
    HAVING count(*) > 0;

    PERFORM jobs.count_failures(
        p_tenant_id, array_agg(u.job_id), array_agg(u.new_status),
        array_agg(coalesce(u.failure_code, '')), array_agg(u.stage)
    )
    FROM unnest(p_updates) u
    WHERE u.outcome = 'APPLIED' AND u.new_status IN ('FAILED', 'REJECTED')
    HAVING count(*) > 0;
END $$;
