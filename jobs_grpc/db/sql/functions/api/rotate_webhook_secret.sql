-- Gives a webhook the next secret, derived from the master key p_key_id, and returns the webhook. Ends the claim of a
-- dispatcher, which would sign with the old secret only.
--
-- A claim that it ends counts as a restart, because the delivery in progress is repeated, but the limit of
-- restarts does not apply: another caller of the tenant must not prevent the rotation of a stolen secret.
--
-- Raises WEBHOOK_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.rotate_webhook_secret(
    p_tenant_id text, p_webhook_id text, p_key_id text
) RETURNS SETOF jobs.webhooks
LANGUAGE plpgsql
-- settings: tenant, lookup, lock timeout
AS $$
DECLARE
    v_webhook jobs.webhooks;
BEGIN
    -- Before the webhook: see lock_webhook.
    PERFORM jobs.lock_event_head(p_tenant_id);
    v_webhook := jobs.lock_webhook(p_tenant_id, p_webhook_id);
    v_webhook.rotated_at := jobs.clock_time();
    v_webhook.secret_number := v_webhook.secret_number + 1;
    v_webhook.previous_key_id := v_webhook.key_id;
    v_webhook.key_id := p_key_id;
    IF v_webhook.claim_id IS NOT NULL THEN
        PERFORM jobs.limit_webhook_restarts(p_tenant_id, p_may_raise => false);
        v_webhook.claim_id := NULL;
        v_webhook.due_at := v_webhook.rotated_at;
    END IF;

    PERFORM jobs.store_webhook(v_webhook);
    RETURN NEXT v_webhook;
END $$;
