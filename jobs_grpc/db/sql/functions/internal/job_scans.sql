-- Returns the index scans of list_jobs that find the jobs in p_statuses: one for each stored status, as it is numbered
-- in the indexes.
CREATE OR REPLACE FUNCTION jobs.job_scans(
    p_filter text,     -- the first filter that is set; see list_jobs
    p_value text,      -- of the filter
    p_statuses text[]  -- NULL: all
) RETURNS TABLE (filter text, number integer, value text)
LANGUAGE plpgsql IMMUTABLE ROWS 3
AS $$
DECLARE
    v_reads_active boolean := p_filter = 'awaiting_approval' OR p_statuses IS NULL
        OR p_statuses && '{IN_PROGRESS, PAUSED}';
BEGIN
    RETURN QUERY
    SELECT s.filter, s.number, p_value
    FROM (
        VALUES
            (p_filter, 0, v_reads_active),
            (p_filter, 1, p_statuses IS NULL OR 'COMPLETED' = ANY (p_statuses)),
            (p_filter, 2, p_statuses IS NULL OR 'CANCELED' = ANY (p_statuses)),
            -- Readers see jobs that have expired as COMPLETED, although they are stored as IN_PROGRESS.
            ('expired', 0, NOT v_reads_active AND 'COMPLETED' = ANY (p_statuses)),
            ('scheduled', 0, NOT v_reads_active AND 'SCHEDULED' = ANY (p_statuses))
    ) AS s (filter, number, is_needed)
    -- All jobs that await an approval are stored as IN_PROGRESS.
    WHERE s.is_needed AND (s.number = 0 OR p_filter <> 'awaiting_approval');
END $$;
