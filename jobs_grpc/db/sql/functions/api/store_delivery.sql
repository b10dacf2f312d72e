-- Stores the result of a delivery. Changes nothing if the claim p_claim_id has ended: another dispatcher has claimed
-- the webhook, or the webhook was changed or deleted.
--
-- A success verifies the URL, moves the cursor to the event, and either ends the claim, so that the webhook is due at
-- once, or renews its lease. A failure ends the claim; the webhook is due after p_retry_seconds, or disabled after five
-- days of failures or status 410.
CREATE OR REPLACE FUNCTION jobs.store_delivery(
    p_tenant_id text, p_webhook_id text,
    p_claim_id uuid,
    p_position bigint,                  -- of the event; of a test event, that of the cursor
    p_http_status integer,              -- of the HTTP response; 0: none
    p_error text,                       -- of Webhook.DeliveryError; NULL: success
    p_retry_seconds double precision,   -- used after a failure
    p_is_last boolean,                  -- whether a success ends the claim
    OUT stored boolean,                 -- the claim had not ended
    OUT disabled_cause text             -- why the webhook is now disabled; NULL: it is not
)
LANGUAGE plpgsql
-- settings: tenant, lookup, lock timeout
AS $$
#variable_conflict use_column
DECLARE
    v_webhook jobs.webhooks;
    v_now timestamptz;
BEGIN
    v_webhook := jobs.lock_webhook(p_tenant_id, p_webhook_id, p_may_raise => false);
    stored := v_webhook.claim_id IS NOT DISTINCT FROM p_claim_id;
    IF NOT stored THEN
        RETURN;
    END IF;
    v_now := jobs.clock_time();
    v_webhook.last_attempt_at := v_now;
    v_webhook.last_http_status := p_http_status;
    v_webhook.last_error := p_error;
    v_webhook.is_unproven := p_error IS NOT NULL;

    IF p_error IS NULL THEN
        IF p_position > v_webhook.position THEN
            v_webhook.position := p_position;
            v_webhook.previous_position := p_position;
        END IF;
        v_webhook.verified_at := coalesce(v_webhook.verified_at, v_now);
        v_webhook.last_success_at := v_now;
        v_webhook.failure_count := 0;
        v_webhook.first_failure_at := NULL;
        IF p_is_last THEN
            v_webhook.claim_id := NULL;
            v_webhook.due_at := v_now;
        ELSIF v_webhook.due_at < v_now + interval '20 seconds' THEN
            -- Not each time: the column is indexed. A delivery takes at most 15 seconds.
            v_webhook.due_at := v_now + interval '30 seconds';
        END IF;
    ELSE
        v_webhook.failure_count := v_webhook.failure_count + 1;
        v_webhook.first_failure_at := coalesce(v_webhook.first_failure_at, v_now);
        v_webhook.claim_id := NULL;
        v_webhook.due_at := v_now + make_interval(secs => p_retry_seconds);
        IF p_http_status = 410 THEN
            v_webhook.disabled_cause := 'GONE';
        ELSIF v_webhook.first_failure_at <= v_now - interval '5 days' THEN
            v_webhook.disabled_cause := 'RETRIES_EXHAUSTED';
        END IF;
        IF v_webhook.disabled_cause IS NOT NULL THEN
            v_webhook.enabled := false;
            v_webhook.due_at := NULL;
        END IF;
    END IF;

    PERFORM jobs.store_webhook(v_webhook);
    disabled_cause := v_webhook.disabled_cause;
END $$;
