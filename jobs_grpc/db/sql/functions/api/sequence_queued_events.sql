-- Sequences a batch of the queued events of a tenant, unless another session is doing so: see sequence_events.
-- Returns whether more are queued; then the caller repeats the call.
CREATE OR REPLACE FUNCTION jobs.sequence_queued_events(p_tenant_id text) RETURNS boolean
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
BEGIN
    IF jobs.sequence_events(p_tenant_id, true) IS NULL THEN
        RETURN false;
    END IF;
    PERFORM FROM jobs.event_queue q WHERE q.tenant_id = p_tenant_id LIMIT 1;
    RETURN FOUND;
END $$;
