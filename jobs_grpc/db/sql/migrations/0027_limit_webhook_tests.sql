-- Adds the limit of test deliveries per tenant: see test_webhook. No row is rewritten.
ALTER TABLE jobs.event_heads ADD COLUMN tests_until timestamptz;
