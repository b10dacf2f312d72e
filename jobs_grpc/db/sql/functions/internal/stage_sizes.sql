-- Returns the number of devices in each stage. A stage of a group or a selector has the devices that it
-- claims. The others fill the other stages in order. A percentage is of all devices: the percentages up to a stage
-- are added, and the sum is rounded up to whole devices. The sizes add up to less than the number of
-- devices if the stages have no room for all.
CREATE OR REPLACE FUNCTION jobs.stage_sizes(
    p_stages jsonb,             -- the stages of a rollout, as in jobs.jobs.request
    p_devices bigint,
    p_claimed_devices bigint[]  -- for each stage that claims devices: their number; 0 for the others
) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    v_left bigint := p_devices - (SELECT sum(c) FROM unnest(p_claimed_devices) AS c);
    v_percent integer := 0;  -- of the stages so far
    v_sizes integer[];
    v_size bigint;
    v_stage jsonb;
BEGIN
    FOR v_stage IN SELECT s FROM jsonb_array_elements(p_stages) AS s LOOP
        IF v_stage ?| '{group_id,selector}' THEN
            v_size := p_claimed_devices[coalesce(cardinality(v_sizes), 0) + 1];
        ELSE
            v_size := CASE
                WHEN v_stage ? 'device_count' THEN (v_stage ->> 'device_count')::bigint
                WHEN v_stage ? 'percent' THEN
                    ((v_percent + (v_stage ->> 'percent')::integer) * p_devices + 99) / 100
                    - (v_percent * p_devices + 99) / 100
                ELSE v_left  -- the remainder
            END;
            v_size := least(v_size, v_left);
            v_left := v_left - v_size;
            v_percent := v_percent + coalesce((v_stage ->> 'percent')::integer, 0);
        END IF;
        v_sizes := v_sizes || v_size::integer;
    END LOOP;
    RETURN v_sizes;
END $$;
