-- Raises DEVICES_NOT_FOUND with up to 20 of the devices that a list names and that were not found.
CREATE OR REPLACE FUNCTION jobs.check_device_list(p_device_ids text[], p_found_ids text[])
RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_missing text[] := ARRAY(
        SELECT d COLLATE "C" FROM unnest(p_device_ids) AS d
        EXCEPT
        SELECT d COLLATE "C" FROM unnest(p_found_ids) AS d
        ORDER BY 1
    );
BEGIN
    IF v_missing <> '{}' THEN
        PERFORM jobs.raise_error('DEVICES_NOT_FOUND', '', jsonb_build_object(
            'device_ids', v_missing[:20], 'count', cardinality(v_missing)
        ));
    END IF;
END $$;
