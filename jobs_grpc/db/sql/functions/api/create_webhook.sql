-- Creates a webhook for the events that are committed from now on, and returns it.
--
-- Raises TOO_MANY_WEBHOOKS if the tenant has 16, and TOO_MANY_WEBHOOK_RESTARTS.
CREATE OR REPLACE FUNCTION jobs.create_webhook(
    p_tenant_id text,
    p_webhook_id text,    -- new
    p_url text,
    p_description text,
    p_types text[],       -- NULL: all
    p_key_id text         -- of the master key
) RETURNS SETOF jobs.webhooks
LANGUAGE plpgsql
-- settings: tenant, lookup, lock timeout
AS $$
DECLARE
    v_now timestamptz;
    v_position bigint;
BEGIN
    -- So the webhook does not get events that were committed before the call, unless very many are queued.
    PERFORM jobs.sequence_events(p_tenant_id);
    -- The lock also enforces the limit for concurrent calls.
    v_position := jobs.lock_event_head(p_tenant_id);
    IF (SELECT count(*) FROM jobs.webhooks w WHERE w.tenant_id = p_tenant_id) >= 16 THEN
        PERFORM jobs.raise_error('TOO_MANY_WEBHOOKS');
    END IF;
    PERFORM jobs.limit_webhook_restarts(p_tenant_id);

    v_now := jobs.clock_time();
    RETURN QUERY
    INSERT INTO jobs.webhooks AS w
        (tenant_id, webhook_id, url, description, types, created_at, position, previous_position,
         key_id)
    VALUES
        (p_tenant_id, p_webhook_id, p_url, p_description, p_types, v_now, v_position, v_position,
         p_key_id)
    RETURNING w.*;
END $$;
