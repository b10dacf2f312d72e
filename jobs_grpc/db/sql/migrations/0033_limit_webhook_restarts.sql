-- Adds the limit of restarts and tests of a tenant's webhooks: see limit_webhook_restarts. Servers of the
-- previous version use tests_until.
ALTER TABLE jobs.event_heads ADD COLUMN restarts_until timestamptz;
