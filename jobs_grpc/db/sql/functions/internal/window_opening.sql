-- Returns the time at which a clock in the zone first shows the local time or a later one. So a local time
-- that the clock skips is reached at the change of the clock, and one that it shows twice is reached the
-- first time.
CREATE OR REPLACE FUNCTION jobs.window_opening(
    zone text,  -- PostgreSQL knows it
    local_time timestamp
) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    -- PostgreSQL chooses the second of two times, and for a skipped time the offset before the change.
    v_at timestamptz := timezone(zone, local_time);
    v_shown timestamp := timezone(zone, v_at);
    v_before timestamptz;
    v_middle timestamptz;
BEGIN
    IF v_shown > local_time THEN
        -- The change is after v_before, and not after v_at.
        v_before := v_at - (v_shown - local_time);
        WHILE v_at - v_before > interval '1 second' LOOP
            v_middle := v_before + date_trunc('second', (v_at - v_before) / 2);
            IF timezone(zone, v_middle) >= local_time THEN
                v_at := v_middle;
            ELSE
                v_before := v_middle;
            END IF;
        END LOOP;
    ELSE
        -- If the clock has been set back, by less than a day, before v_at: the same local time before it.
        v_before := v_at - (timezone(zone, v_at - interval '48 hours') + interval '48 hours' - v_shown);
        IF v_before < v_at AND timezone(zone, v_before) = local_time THEN
            v_at := v_before;
        END IF;
    END IF;
    RETURN v_at;
END $$;
