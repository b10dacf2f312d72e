-- The limit of test deliveries is now also that of restarts: see limit_webhook_restarts.
ALTER TABLE jobs.event_heads RENAME COLUMN tests_until TO restarts_until;
