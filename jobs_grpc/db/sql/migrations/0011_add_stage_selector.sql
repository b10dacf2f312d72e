-- Adds stages with the devices that match a selector, which is stored in its canonical text.
ALTER TABLE jobs.job_stages
    ADD COLUMN selector text;
