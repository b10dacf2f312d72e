-- Raises STAGES_TOO_SMALL unless stages of these sizes have room for all devices.
CREATE OR REPLACE FUNCTION jobs.check_stage_sizes(p_sizes integer[], p_devices integer) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_room bigint := (SELECT sum(s) FROM unnest(p_sizes) AS s);
BEGIN
    IF v_room < p_devices THEN
        PERFORM jobs.raise_error(
            'STAGES_TOO_SMALL',
            format('the stages have room for %s of %s devices; add a stage with remainder',
                   v_room, p_devices)
        );
    END IF;
END $$;
