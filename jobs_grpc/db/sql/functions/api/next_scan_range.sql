-- Returns the next range of devices of a job's full scan, after `after` and up to `last`, if the scan is due. The
-- caller lets these devices join the job, and then calls finish_scan_range.
CREATE OR REPLACE FUNCTION jobs.next_scan_range(
    p_tenant_id text, p_job_id text,
    p_limit integer,              -- devices of the range
    OUT due_at timestamptz,       -- when the range was due; NULL: none is due
    OUT read_at timestamptz,      -- the current time, before the range is read
    OUT after text,               -- '': the scan begins
    OUT last text                 -- NULL: to the end
)
LANGUAGE plpgsql
-- settings: tenant, page
AS $$
BEGIN
    read_at := jobs.clock_time();
    SELECT c.scan_due_at, coalesce(c.scan_after, '') INTO due_at, after
    FROM jobs.continuous_jobs c
    WHERE c.tenant_id = p_tenant_id AND c.job_id = p_job_id AND c.scan_due_at <= read_at;
    SELECT d.device_id INTO last
    FROM public.device_state d
    WHERE d.tenant_id = p_tenant_id AND d.device_id COLLATE "C" > after
    ORDER BY d.device_id COLLATE "C"
    LIMIT 1 OFFSET p_limit - 1;
END $$;
