-- Each job with a 60-bit hash that changes when readers would see another state of it. A transaction that
-- changes executions, stages or criteria also writes a new version of the row of the job or of its
-- counts, except for what stops or delays joins. Time alone changes only whether the job has started or has expired,
-- and the number of released executions.
--
-- For DISTINCT ON see pending_executions.
CREATE OR REPLACE VIEW jobs.job_fingerprints WITH (security_invoker = true) AS
SELECT
    j.tenant_id,
    j.job_id,
    jobs.text_fingerprint(
        j.row_version::text || ' ' || p.version::text
        || CASE WHEN jobs.is_expired_at(j.expires_at, jobs.now()) THEN ' expired ' ELSE ' ' END
        || CASE WHEN j.start_at > jobs.now() THEN 'scheduled ' ELSE '' END
        || coalesce(jobs.released_count_at(j.release, jobs.now())::text, '')
        || CASE WHEN j.is_continuous THEN coalesce((
            SELECT format(' %s %s %s', c.is_stopped, c.is_full, c.is_behind)
            FROM jobs.continuous_jobs c
            WHERE c.tenant_id = j.tenant_id AND c.job_id = j.job_id
        ), '') ELSE '' END
    ) AS fingerprint
FROM jobs.jobs_with_release j
CROSS JOIN LATERAL (
    SELECT DISTINCT ON (p.tenant_id, p.job_id) p.tenant_id, p.xmin AS version
    FROM jobs.job_progress p
    WHERE p.tenant_id = j.tenant_id AND p.job_id = j.job_id
) p
WHERE p.tenant_id = j.tenant_id AND j.deleted_at IS NULL;
