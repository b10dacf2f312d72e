-- Adds the counts of automatic retries, as in job_progress. No row is rewritten.
ALTER TABLE jobs.job_stages
    ADD COLUMN retrying integer NOT NULL DEFAULT 0,
    ADD COLUMN retrying_in_progress integer NOT NULL DEFAULT 0;
