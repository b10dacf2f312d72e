-- Changes the fields of a webhook that p_fields names, and ignores the other parameters. Returns two rows: after and
-- before the change.
--
-- A change of the URL, the types or the position, enabling and disabling end the claim of a dispatcher: the result of
-- a delivery in progress is ignored. If the webhook is enabled, it is then due: it restarts. A new URL is not verified.
-- Events between an earlier position and the one before the call are replays.
--
-- Raises WEBHOOK_NOT_FOUND; for the new position, EVENTS_PURGED and POSITION_UNKNOWN; if the webhook restarts,
-- TOO_MANY_WEBHOOK_RESTARTS.
CREATE OR REPLACE FUNCTION jobs.update_webhook(
    p_tenant_id text, p_webhook_id text,
    p_fields text[],      -- of Webhook
    p_url text,
    p_description text,
    p_types text[],       -- NULL: all
    p_enabled boolean,
    p_position bigint     -- 0: before the oldest event
) RETURNS SETOF jobs.webhooks
LANGUAGE plpgsql
-- settings: tenant, lookup, lock timeout
AS $$
DECLARE
    v_head record;
    v_webhook jobs.webhooks;
    v_before jobs.webhooks;
    v_restarts boolean := false;
BEGIN
    IF p_fields <> '{description}' THEN
        -- Before the webhook: see lock_webhook.
        PERFORM jobs.lock_event_head(p_tenant_id);
    END IF;
    v_webhook := jobs.lock_webhook(p_tenant_id, p_webhook_id);
    v_before := v_webhook;
    IF 'description' = ANY (p_fields) THEN
        v_webhook.description := p_description;
    END IF;
    IF 'types' = ANY (p_fields) AND v_webhook.types IS DISTINCT FROM p_types THEN
        v_webhook.types := p_types;
        v_restarts := true;
    END IF;
    IF 'url' = ANY (p_fields) AND v_webhook.url <> p_url THEN
        -- The results of deliveries belong to the old URL.
        v_webhook.url := p_url;
        v_webhook.last_attempt_at := NULL;
        v_webhook.last_success_at := NULL;
        v_webhook.last_http_status := 0;
        v_webhook.last_error := NULL;
        v_webhook.is_unproven := true;
        v_webhook.verified_at := NULL;
        v_restarts := true;
    END IF;
    IF 'position' = ANY (p_fields) THEN
        SELECT h.position, h.purged_position INTO v_head
        FROM jobs.event_heads h
        WHERE h.tenant_id = p_tenant_id;
        IF p_position > coalesce(v_head.position, 0) THEN
            PERFORM jobs.raise_error(
                'POSITION_UNKNOWN', '', jsonb_build_object('last_position', v_head.position)
            );
        ELSIF p_position > 0 AND p_position < v_head.purged_position THEN
            PERFORM jobs.raise_error(
                'EVENTS_PURGED', '',
                jsonb_build_object('purged_position', v_head.purged_position)
            );
        END IF;
        v_webhook.replay_position := greatest(v_webhook.replay_position, v_webhook.position);
        v_webhook.position := greatest(p_position, v_head.purged_position);
        v_webhook.previous_position := v_webhook.position;
        v_restarts := true;
    END IF;
    IF 'enabled' = ANY (p_fields) AND v_webhook.enabled <> p_enabled THEN
        v_webhook.enabled := p_enabled;
        v_webhook.disabled_cause := CASE WHEN NOT p_enabled THEN 'OPERATOR' END;
        v_restarts := true;
    END IF;
    IF v_restarts THEN
        v_webhook.failure_count := 0;
        v_webhook.first_failure_at := NULL;
        v_webhook.claim_id := NULL;
        v_webhook.due_at := NULL;
        IF v_webhook.enabled THEN
            PERFORM jobs.limit_webhook_restarts(p_tenant_id);
            v_webhook.due_at := jobs.clock_time();
        END IF;
    END IF;

    PERFORM jobs.store_webhook(v_webhook);
    RETURN NEXT v_webhook;
    RETURN NEXT v_before;
END $$;
