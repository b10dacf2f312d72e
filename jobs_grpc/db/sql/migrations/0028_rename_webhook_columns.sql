-- Renames columns of webhooks, so that each word has one meaning. No released version has the table.
ALTER TABLE jobs.webhooks RENAME COLUMN last_status TO last_http_status;
-- The first failure after the last success. NULL: no failure since then.
ALTER TABLE jobs.webhooks RENAME COLUMN failing_since TO first_failure_at;
-- The last delivery failed, or none has succeeded: it gets one of the few slots for such webhooks.
ALTER TABLE jobs.webhooks RENAME COLUMN is_failing TO is_unproven;
