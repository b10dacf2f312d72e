-- Adds webhooks: cursors on the events of a tenant. No row is stored for a delivery.
CREATE TABLE jobs.webhooks (
    tenant_id       text COLLATE "C" NOT NULL,
    webhook_id      text COLLATE "C" NOT NULL,  -- random, never reused
    url             text NOT NULL,
    description     text NOT NULL DEFAULT '',
    types           text[],                    -- NULL: all
    created_at      timestamptz NOT NULL,
    enabled         boolean NOT NULL DEFAULT true,
    disabled_cause  text,                      -- of Webhook.DisabledCause; NULL: enabled
    position        bigint NOT NULL,           -- the cursor: matching events up to it have been delivered
    -- The event that was delivered last, which the next delivery names, so that a receiver notices a loss. The cursor
    -- can't serve: it also moves over events of other types.
    previous_position bigint NOT NULL,
    purged_position bigint NOT NULL DEFAULT 0, -- events up to it were purged before delivery
    -- NULL: no event is waiting, or disabled. Otherwise, when a dispatcher may claim the webhook: at the retry time,
    -- or at the end of the lease of another dispatcher.
    due_at          timestamptz,
    claim_id        uuid,                      -- of the dispatcher that may store results; NULL: none
    last_attempt_at timestamptz,
    last_success_at timestamptz,
    last_status     integer NOT NULL DEFAULT 0,
    last_error      text,                      -- of Webhook.DeliveryError; NULL: none
    failure_count   integer NOT NULL DEFAULT 0,
    failing_since   timestamptz,               -- the first failure after the last success; NULL: not failing
    -- The last delivery failed, or none has succeeded: it gets one of the few slots for such webhooks.
    is_failing      boolean NOT NULL DEFAULT true,
    secret_number   integer NOT NULL DEFAULT 1,
    key_id          text NOT NULL,             -- of the master key from which the secret is derived
    rotated_at      timestamptz,               -- of the last RotateWebhookSecret
    previous_key_id text,                      -- of the secret before it
    last_test_at    timestamptz,
    PRIMARY KEY (tenant_id, webhook_id)
) WITH (fillfactor = 50);
-- For webhooks_due, across tenants.
CREATE INDEX webhooks_by_due_at ON jobs.webhooks (is_failing, due_at) WHERE due_at IS NOT NULL;
ALTER TABLE jobs.webhooks ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON jobs.webhooks
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
