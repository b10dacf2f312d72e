-- Adds pauses of jobs. The table is not rewritten, and rows keep their size: the new columns are NULL or
-- have a constant default. A paused job is stored as IN_PROGRESS. Readers see PAUSED.
ALTER TABLE jobs.jobs
    ADD COLUMN paused_at    timestamptz,  -- NULL: not paused
    ADD COLUMN paused_by    text,         -- NULL: unknown
    ADD COLUMN pause_reason text,
    ADD COLUMN revision     integer NOT NULL DEFAULT 1,  -- of the settings of the job; its etag
    -- Not validated, because that would read all rows. No row has a pause yet.
    ADD CONSTRAINT jobs_pause_check
        CHECK ((paused_at IS NULL) = (pause_reason IS NULL)
               AND (paused_at IS NOT NULL OR paused_by IS NULL)) NOT VALID;
