-- Stores the time of a test delivery, and returns the URL and the keys for it. If the URL is not verified and accepts
-- the test, the caller stores that with verify_webhook.
--
-- Raises WEBHOOK_NOT_FOUND, and TOO_MANY_WEBHOOK_RESTARTS: as limit_webhook_restarts, and less than 10 seconds after
-- the last test of the webhook.
CREATE OR REPLACE FUNCTION jobs.test_webhook(
    p_tenant_id text, p_webhook_id text,
    OUT url text,
    OUT secret_number integer,
    OUT key_id text,           -- of the secret
    OUT previous_key_id text,  -- of the secret before it; NULL: no longer in use
    OUT is_verified boolean
)
LANGUAGE plpgsql
-- settings: tenant, lookup, lock timeout
AS $$
DECLARE
    v_webhook jobs.webhooks;
    v_now timestamptz;
BEGIN
    -- Before the webhook: see lock_webhook.
    PERFORM jobs.lock_event_head(p_tenant_id);
    v_webhook := jobs.lock_webhook(p_tenant_id, p_webhook_id);
    v_now := jobs.clock_time();
    IF v_webhook.last_test_at > v_now - interval '10 seconds' THEN
        PERFORM jobs.raise_error('TOO_MANY_WEBHOOK_RESTARTS');
    END IF;
    PERFORM jobs.limit_webhook_restarts(p_tenant_id);
    v_webhook.last_test_at := v_now;
    PERFORM jobs.store_webhook(v_webhook);

    url := v_webhook.url;
    secret_number := v_webhook.secret_number;
    key_id := v_webhook.key_id;
    previous_key_id := jobs.previous_key_id(v_webhook, v_now);
    is_verified := v_webhook.verified_at IS NOT NULL;
END $$;
