-- Stores that a URL of a webhook has answered a test event with a 2xx status. Changes nothing if the webhook has
-- another URL meanwhile, is already verified, or was deleted.
--
-- If the verification has failed before, the webhook is due at once, and its failures are forgotten.
CREATE OR REPLACE FUNCTION jobs.verify_webhook(p_tenant_id text, p_webhook_id text, p_url text)
RETURNS void
LANGUAGE plpgsql
-- settings: tenant, lookup, lock timeout
AS $$
DECLARE
    v_webhook jobs.webhooks;
BEGIN
    v_webhook := jobs.lock_webhook(p_tenant_id, p_webhook_id, p_may_raise => false);
    IF v_webhook.url = p_url AND v_webhook.verified_at IS NULL THEN
        v_webhook.verified_at := jobs.clock_time();
        IF v_webhook.enabled AND v_webhook.failure_count > 0 THEN
            v_webhook.failure_count := 0;
            v_webhook.first_failure_at := NULL;
            v_webhook.claim_id := NULL;
            v_webhook.due_at := v_webhook.verified_at;
        END IF;
        PERFORM jobs.store_webhook(v_webhook);
    END IF;
END $$;
