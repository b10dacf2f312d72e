-- Returns the next openings: the times after `after` at which start windows open, the earliest first.
CREATE OR REPLACE FUNCTION jobs.next_openings(
    windows integer[],  -- as in jobs.jobs
    zone text,
    after timestamptz,
    max_openings integer
) RETURNS timestamptz[]
LANGUAGE plpgsql IMMUTABLE STRICT
AS $$
DECLARE
    v_local timestamp;
    v_start timestamp;
    v_day timestamp;
    v_opening timestamptz;
    v_openings timestamptz[] := '{}';
BEGIN
    v_local := timezone(zone, after);
    v_day := date_trunc('day', v_local);
    -- The windows of a later day never open before those of an earlier day.
    WHILE cardinality(v_openings) < max_openings LOOP
        FOR i IN 1 .. cardinality(windows) BY 3 LOOP
            v_start := v_day + make_interval(mins => windows[i + 1]);
            -- The clock has shown all times up to v_local, or later ones. window_opening is slow.
            IF v_start > v_local
               AND windows[i] & (1 << extract(isodow FROM v_day)::integer - 1) <> 0 THEN
                v_opening := jobs.window_opening(zone, v_start);
                IF v_opening > after AND v_opening <> ALL (v_openings) THEN
                    v_openings := v_openings || v_opening;
                END IF;
            END IF;
        END LOOP;
        v_day := v_day + interval '1 day';
    END LOOP;
    RETURN ARRAY(SELECT o FROM unnest(v_openings) AS o ORDER BY o LIMIT max_openings);
EXCEPTION
    WHEN invalid_parameter_value THEN
        RETURN jobs.next_openings(windows, 'UTC', after, max_openings);
END $$;
