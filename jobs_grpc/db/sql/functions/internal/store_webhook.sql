-- Stores the changes of a webhook that the caller has read with a lock.
CREATE OR REPLACE FUNCTION jobs.store_webhook(p_webhook jobs.webhooks) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
BEGIN
    UPDATE jobs.webhooks w
    SET url = p_webhook.url, description = p_webhook.description, types = p_webhook.types,
        enabled = p_webhook.enabled, disabled_cause = p_webhook.disabled_cause,
        position = p_webhook.position, previous_position = p_webhook.previous_position,
        purged_position = p_webhook.purged_position, due_at = p_webhook.due_at,
        claim_id = p_webhook.claim_id, last_attempt_at = p_webhook.last_attempt_at,
        last_success_at = p_webhook.last_success_at, last_http_status = p_webhook.last_http_status,
        last_error = p_webhook.last_error, failure_count = p_webhook.failure_count,
        first_failure_at = p_webhook.first_failure_at, is_unproven = p_webhook.is_unproven,
        secret_number = p_webhook.secret_number, key_id = p_webhook.key_id,
        rotated_at = p_webhook.rotated_at, previous_key_id = p_webhook.previous_key_id,
        last_test_at = p_webhook.last_test_at, verified_at = p_webhook.verified_at,
        replay_position = p_webhook.replay_position
    WHERE w.tenant_id = p_webhook.tenant_id AND w.webhook_id = p_webhook.webhook_id;
END $$;
