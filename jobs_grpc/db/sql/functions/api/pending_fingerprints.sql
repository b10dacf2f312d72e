-- depends on: changed_pending_fingerprints
-- For servers of the previous version only; this version calls changed_pending_fingerprints.
--
-- Returns the fingerprint of each device as a text, for its first 101 pending executions, which is one
-- more than a response can hold.
CREATE OR REPLACE FUNCTION jobs.pending_fingerprints(
    p_tenant_id text, p_device_ids text[]
) RETURNS TABLE (device_id text, fingerprint text)
LANGUAGE plpgsql
-- settings: index
AS $$
DECLARE
    v_devices integer := cardinality(p_device_ids);
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    RETURN QUERY
    SELECT p_device_ids[c.position], c.fingerprint::text
    FROM jobs.changed_pending_fingerprints(
        p_tenant_id, p_device_ids, array_fill(101, ARRAY[v_devices]),
        array_fill(NULL::bigint, ARRAY[v_devices])
    ) c;
END $$;
