-- Counts a creation, a restart or a test of a webhook: all let a tenant cause a POST at once, and count as restarts
-- here, in restarts_until and in TOO_MANY_WEBHOOK_RESTARTS. Raises that if the tenant has more than 16 in 10 seconds.
-- The caller has locked the head of the tenant's events.
CREATE OR REPLACE FUNCTION jobs.limit_webhook_restarts(p_tenant_id text) RETURNS void
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
    -- A leaky bucket: each restart moves restarts_until, which may be at most one window ahead.
    v_until := greatest(v_until, v_now) + v_window / v_max_restarts;
    IF v_until > v_now + v_window THEN
        PERFORM jobs.raise_error('TOO_MANY_WEBHOOK_RESTARTS');
    END IF;
    UPDATE jobs.event_heads h
    SET restarts_until = v_until
    WHERE h.tenant_id = p_tenant_id;
END $$;
