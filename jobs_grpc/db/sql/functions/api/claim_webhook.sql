-- Claims a webhook that is due, for 30 seconds, and returns its next events, in order: at most 100, with about 64 KiB
-- of details. If the URL is not verified, returns a test event instead: its position is that of the cursor, and only
-- its type matters.
--
-- Returns no row if the webhook is not due, or if there is nothing to send. In the latter case, the webhook
-- becomes idle until sequence_events adds an event of its types; it stays due if all 5,000 examined events are of other
-- types.
--
-- If another session holds the lock of the head, returns one row of NULLs and changes nothing, so that a tenant does
-- not keep a connection of the dispatcher busy.
--
-- While the head is locked, no event is added or purged. So no event is missed when the webhook becomes idle, and none
-- is purged between the check of the cursor and the read.
CREATE OR REPLACE FUNCTION jobs.claim_webhook(
    p_tenant_id text, p_webhook_id text, p_claim_id uuid
) RETURNS TABLE (
    url text,                 -- of the webhook, like the next four
    secret_number integer,
    key_id text,              -- of the secret
    previous_key_id text,     -- of the secret before it; NULL: no longer in use
    failure_count integer,
    previous_position bigint, -- of the event before: previous_position of the delivery
    "position" bigint,        -- of the event, like the rest
    job_id text,
    type text,
    occurred_at timestamptz,
    status text,
    counts json,
    user_id text,
    details jsonb,
    is_replay boolean         -- see update_webhook
)
LANGUAGE plpgsql
-- settings: tenant, page, lock timeout
AS $$
#variable_conflict use_column
DECLARE
    v_max_examined integer := 5000;
    v_max_events integer := 100;
    v_head record;
    v_webhook jobs.webhooks;
    v_now timestamptz;
    v_examined bigint;
    v_previous_key_id text;
BEGIN
    SELECT h.position, h.purged_position INTO v_head
    FROM jobs.event_heads h
    WHERE h.tenant_id = p_tenant_id
    FOR SHARE SKIP LOCKED;
    IF NOT FOUND THEN
        PERFORM FROM jobs.event_heads h WHERE h.tenant_id = p_tenant_id;
        IF FOUND THEN
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    SELECT w.* INTO v_webhook
    FROM jobs.webhooks w
    WHERE w.tenant_id = p_tenant_id AND w.webhook_id = p_webhook_id
    FOR UPDATE SKIP LOCKED;
    v_now := jobs.clock_time();
    -- Not in WHERE: the planner could use the index of webhooks_due.
    IF NOT FOUND OR v_webhook.due_at IS NULL OR v_webhook.due_at > v_now THEN
        RETURN;
    END IF;

    IF v_webhook.position < v_head.purged_position THEN
        v_webhook.position := v_head.purged_position;
        v_webhook.previous_position := v_head.purged_position;
        v_webhook.purged_position := v_head.purged_position;
    END IF;
    IF v_webhook.verified_at IS NULL THEN
        v_max_events := 1;
    END IF;
    v_previous_key_id := jobs.previous_key_id(v_webhook, v_now);
    RETURN QUERY
    SELECT v_webhook.url, v_webhook.secret_number, v_webhook.key_id, v_previous_key_id,
           v_webhook.failure_count,
           lag(m.position, 1, v_webhook.previous_position) OVER (ORDER BY m.position),
           CASE WHEN v_webhook.verified_at IS NULL THEN v_webhook.position ELSE m.position END,
           m.job_id, CASE WHEN v_webhook.verified_at IS NULL THEN 'webhook.test' ELSE m.type END,
           m.occurred_at, m.status, m.counts, m.user_id, m.details,
           v_webhook.verified_at IS NOT NULL AND m.position <= v_webhook.replay_position
    FROM (
        SELECT e.*, sum(e.bytes) OVER (ORDER BY e.position) - e.bytes AS bytes_before
        FROM (
            SELECT x.*, coalesce(octet_length(x.details::text), 0) AS bytes
            FROM (
                SELECT e.*
                FROM jobs.events e
                WHERE e.tenant_id = p_tenant_id AND e.position > v_webhook.position
                ORDER BY e.position
                LIMIT v_max_examined
            ) x
            WHERE v_webhook.types IS NULL OR x.type = ANY (v_webhook.types)
        ) e
        ORDER BY e.position
        LIMIT v_max_events
    ) m
    WHERE m.bytes_before < 65536
    ORDER BY m.position;

    IF FOUND THEN
        v_webhook.claim_id := p_claim_id;
        v_webhook.due_at := v_now + interval '30 seconds';
    ELSE
        v_webhook.claim_id := NULL;
        SELECT e.position INTO v_examined
        FROM jobs.events e
        WHERE e.tenant_id = p_tenant_id AND e.position > v_webhook.position
        ORDER BY e.position
        OFFSET v_max_examined - 1
        LIMIT 1;
        IF FOUND THEN
            v_webhook.position := v_examined;
            v_webhook.due_at := v_now;
        ELSE
            v_webhook.position := greatest(v_webhook.position, v_head.position);
            v_webhook.due_at := NULL;
        END IF;
    END IF;
    PERFORM jobs.store_webhook(v_webhook);
END $$;
