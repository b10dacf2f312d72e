-- Raises STAGE_EMPTY (with the stage) if a stage of a group or a selector has no devices and not allow_empty, and
-- STAGES_TOO_SMALL unless the stages have room for all devices. Does nothing without devices unless the job may
-- have none, because the caller then raises another error.
CREATE OR REPLACE FUNCTION jobs.check_stage_sizes(
    p_stages jsonb,  -- the stages of a rollout, as in jobs.jobs.request
    p_sizes integer[],
    p_devices integer,
    p_may_be_empty boolean
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_room bigint := (SELECT sum(s) FROM unnest(p_sizes) AS s);
    v_stage integer;
BEGIN
    IF p_devices = 0 AND NOT p_may_be_empty THEN
        RETURN;
    END IF;
    SELECT min(n) - 1 INTO v_stage
    FROM unnest(p_sizes) WITH ORDINALITY AS s (size, n)
    WHERE s.size = 0 AND p_stages -> (n::integer - 1) ?| '{group_id,selector}'
      AND NOT p_stages -> (n::integer - 1) ? 'allow_empty';
    IF v_stage IS NOT NULL THEN
        PERFORM jobs.raise_error(
            'STAGE_EMPTY', v_stage::text,
            jsonb_build_object(
                'group_id', p_stages -> v_stage -> 'group_id',
                'selector', p_stages -> v_stage -> 'selector'
            )
        );
    END IF;
    IF v_room < p_devices THEN
        PERFORM jobs.raise_error(
            'STAGES_TOO_SMALL',
            format('the stages have room for %s of %s devices; add a stage with remainder',
                   v_room, p_devices)
        );
    END IF;
END $$;
