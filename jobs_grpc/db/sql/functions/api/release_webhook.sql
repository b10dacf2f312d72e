-- Ends the claim p_claim_id of a webhook without a result; the webhook is due after p_delay_seconds. Returns false if
-- the claim has already ended.
CREATE OR REPLACE FUNCTION jobs.release_webhook(
    p_tenant_id text, p_webhook_id text, p_claim_id uuid, p_delay_seconds double precision
) RETURNS boolean
LANGUAGE plpgsql
-- settings: tenant, lookup, lock timeout
AS $$
DECLARE
    v_due_at timestamptz := jobs.clock_time() + make_interval(secs => p_delay_seconds);
BEGIN
    UPDATE jobs.webhooks w
    SET claim_id = NULL, due_at = v_due_at
    WHERE w.tenant_id = p_tenant_id AND w.webhook_id = p_webhook_id AND w.claim_id = p_claim_id;
    RETURN FOUND;
END $$;
