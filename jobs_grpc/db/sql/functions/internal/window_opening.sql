-- Returns the time at which a clock in the zone first shows the local time or a later one. If the clock skips
-- the local time, that is when the clock changes; if it shows it twice, the first of both.
CREATE OR REPLACE FUNCTION jobs.window_opening(
    zone text,  -- one that PostgreSQL knows
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
        -- The clock skips the local time. It changes after v_before, and at v_at or before.
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
        -- If the clock was set back (by less than a day) shortly before v_at, it showed the local time before.
        v_before := v_at - (timezone(zone, v_at - interval '48 hours') + interval '48 hours' - v_shown);
        IF v_before < v_at AND timezone(zone, v_before) = local_time THEN
            v_at := v_before;
        END IF;
    END IF;
    RETURN v_at;
END $$;
