-- Changes the number of devices of a tenant, if the device tables are own ones, and returns it; NULL: it
-- did not change. The caller has set the tenant, and has registered or deleted the devices before.
--
-- Must be the transaction's last lock, to avoid deadlocks. If the row is missing, the devices are counted: others
-- can't have committed a change of devices meanwhile, because they would have added the row. That does not hold for SQL
-- that writes devices directly: the doctor compares the counts.
CREATE OR REPLACE FUNCTION jobs.change_device_count(p_tenant_id text, p_change integer) RETURNS bigint
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_count bigint;
    v_stored bigint;
BEGIN
    IF p_change = 0 OR NOT (SELECT t.is_own FROM jobs.device_tables t) THEN
        RETURN NULL;
    END IF;
    LOOP
        UPDATE jobs.device_counts c
        SET device_count = greatest(c.device_count + p_change, 0)
        WHERE c.tenant_id = p_tenant_id
        RETURNING c.device_count INTO v_stored;
        IF v_stored IS NOT NULL THEN
            RETURN v_stored;
        END IF;
        SELECT count(*) INTO v_count FROM public.device_state d WHERE d.tenant_id = p_tenant_id;
        INSERT INTO jobs.device_counts (tenant_id, device_count)
        VALUES (p_tenant_id, v_count)
        ON CONFLICT (tenant_id) DO NOTHING
        RETURNING device_count INTO v_stored;
        IF v_stored IS NOT NULL THEN
            RETURN v_stored;
        END IF;
    END LOOP;
END $$;
