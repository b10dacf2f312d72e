-- Returns a webhook. Raises WEBHOOK_NOT_FOUND.
CREATE OR REPLACE FUNCTION jobs.get_webhook(p_tenant_id text, p_webhook_id text)
RETURNS SETOF jobs.webhooks
LANGUAGE plpgsql STABLE
-- settings: tenant, lookup
AS $$
BEGIN
    RETURN QUERY
    SELECT w.*
    FROM jobs.webhooks w
    WHERE w.tenant_id = p_tenant_id AND w.webhook_id = p_webhook_id;
    IF NOT FOUND THEN
        PERFORM jobs.raise_error('WEBHOOK_NOT_FOUND');
    END IF;
END $$;
