-- Locks the head of a tenant's events, and returns its position. Inserts the head if it is missing. The caller
-- must not take a job lock afterwards.
CREATE OR REPLACE FUNCTION jobs.lock_event_head(
    p_tenant_id text,
    p_skip_locked boolean DEFAULT false  -- return NULL if another session holds the lock
) RETURNS bigint
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_head bigint;
BEGIN
    LOOP
        IF p_skip_locked THEN
            SELECT h.position INTO v_head
            FROM jobs.event_heads h
            WHERE h.tenant_id = p_tenant_id
            FOR UPDATE SKIP LOCKED;
        ELSE
            SELECT h.position INTO v_head
            FROM jobs.event_heads h
            WHERE h.tenant_id = p_tenant_id
            FOR UPDATE;
        END IF;
        IF FOUND THEN
            RETURN v_head;
        END IF;

        v_head := jobs.event_position(jobs.clock_time());
        INSERT INTO jobs.event_heads (tenant_id, position)
        VALUES (p_tenant_id, v_head)
        ON CONFLICT (tenant_id) DO NOTHING;
        IF FOUND THEN
            RETURN v_head;
        ELSIF p_skip_locked THEN
            RETURN NULL;
        END IF;
    END LOOP;
END $$;
