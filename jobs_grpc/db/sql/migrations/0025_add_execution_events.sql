-- Adds the choice of execution events. No row is rewritten.
ALTER TABLE jobs.jobs ADD COLUMN execution_events boolean NOT NULL DEFAULT false;
