-- Stores the time of a test delivery, and returns the URL and the keys for it.
--
-- Raises WEBHOOK_NOT_FOUND and, less than 10 seconds after the last test, WEBHOOK_TEST_TOO_SOON. The latter also if the
-- tenant makes more tests than 16 every 10 seconds: otherwise, new webhooks would avoid the limit of each.
CREATE OR REPLACE FUNCTION jobs.test_webhook(
    p_tenant_id text,
    p_webhook_id text,
    OUT url text,
    OUT secret_number integer,
    OUT key_id text,           -- of the secret
    OUT previous_key_id text   -- of the secret before it; NULL: no longer in use
)
LANGUAGE plpgsql
-- settings: lookup, lock timeout
AS $$
DECLARE
    v_window CONSTANT interval := '10 seconds';
    v_max_tests CONSTANT integer := 16;  -- in a window, by a tenant
    v_tests_until timestamptz;
    v_webhook jobs.webhooks;
    v_now timestamptz;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    -- Before the webhook: see lock_webhook.
    SELECT h.tests_until INTO v_tests_until
    FROM jobs.event_heads h
    WHERE h.tenant_id = p_tenant_id
    FOR UPDATE;
    v_webhook := jobs.lock_webhook(p_tenant_id, p_webhook_id);
    v_now := jobs.clock_time();
    -- A leaky bucket: each test moves tests_until, which may be at most one window ahead.
    v_tests_until := greatest(v_tests_until, v_now) + v_window / v_max_tests;
    IF v_webhook.last_test_at > v_now - v_window OR v_tests_until > v_now + v_window THEN
        PERFORM jobs.raise_error('WEBHOOK_TEST_TOO_SOON');
    END IF;
    UPDATE jobs.event_heads h
    SET tests_until = v_tests_until
    WHERE h.tenant_id = p_tenant_id;
    v_webhook.last_test_at := v_now;
    PERFORM jobs.store_webhook(v_webhook);

    url := v_webhook.url;
    secret_number := v_webhook.secret_number;
    key_id := v_webhook.key_id;
    previous_key_id := jobs.previous_key_id(v_webhook, v_now);
END $$;
