-- Counts a restart or a test of a webhook, which lets a tenant cause a POST at once. A leaky bucket: 16 at once,
-- then one in 0.6 seconds. Beyond that, raises TOO_MANY_WEBHOOK_RESTARTS. The caller has locked the head of the
-- tenant's events.
CREATE OR REPLACE FUNCTION jobs.limit_webhook_restarts(
    p_tenant_id text,
    p_may_raise boolean DEFAULT true  -- false: only count it
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_window CONSTANT interval := '10 seconds';
    v_max_restarts CONSTANT integer := 16;  -- in a window
    v_now timestamptz := jobs.clock_time();
    v_until timestamptz;
BEGIN
    SELECT h.restarts_until INTO v_until
    FROM jobs.event_heads h
    WHERE h.tenant_id = p_tenant_id;
    -- Each restart moves restarts_until, which may be at most one window ahead.
    v_until := greatest(v_until, v_now) + v_window / v_max_restarts;
    IF p_may_raise AND v_until > v_now + v_window THEN
        PERFORM jobs.raise_error('TOO_MANY_WEBHOOK_RESTARTS');
    END IF;
    UPDATE jobs.event_heads h
    SET restarts_until = least(v_until, v_now + v_window)
    WHERE h.tenant_id = p_tenant_id;
END $$;
