-- Locks a webhook and returns it. Raises WEBHOOK_NOT_FOUND.
--
-- To prevent deadlocks, no transaction locks the head of the events after a webhook.
CREATE OR REPLACE FUNCTION jobs.lock_webhook(
    p_tenant_id text, p_webhook_id text,
    p_may_raise boolean DEFAULT true  -- false: returns NULLs if there is no such webhook
) RETURNS jobs.webhooks
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_webhook jobs.webhooks;
BEGIN
    SELECT w.* INTO v_webhook
    FROM jobs.webhooks w
    WHERE w.tenant_id = p_tenant_id AND w.webhook_id = p_webhook_id
    FOR UPDATE;
    IF NOT FOUND AND p_may_raise THEN
        PERFORM jobs.raise_error('WEBHOOK_NOT_FOUND');
    END IF;
    RETURN v_webhook;
END $$;
