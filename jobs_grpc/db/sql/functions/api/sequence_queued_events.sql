-- Sequences a batch of the queued events of a tenant: see sequence_events. Returns whether more are queued; then the
-- caller repeats the call. Returns NULL if another session holds the lock of the head; then the caller repeats it
-- later, because that session may be a claim of a webhook, which sequences nothing.
CREATE OR REPLACE FUNCTION jobs.sequence_queued_events(p_tenant_id text) RETURNS boolean
LANGUAGE plpgsql
-- settings: tenant, lookup
AS $$
BEGIN
    IF jobs.sequence_events(p_tenant_id, true) IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM FROM jobs.event_queue q WHERE q.tenant_id = p_tenant_id LIMIT 1;
    RETURN FOUND;
END $$;
