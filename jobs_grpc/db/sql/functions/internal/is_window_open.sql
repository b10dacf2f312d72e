-- Returns whether a start window is open at the time `at`, and was open `delay` seconds earlier. A window
-- opens when the local clock first shows its start time or a later one, and stays open for its duration in
-- elapsed time.
--
-- A zone that this PostgreSQL does not know counts as UTC: an error would break the calls of all devices.
CREATE OR REPLACE FUNCTION jobs.is_window_open(
    windows integer[],  -- as in jobs.jobs
    zone text,
    at timestamptz,
    delay double precision DEFAULT 0  -- up to a minute
) RETURNS boolean
-- Not PARALLEL SAFE, because of EXCEPTION. It has few statements, because polls and lists of pending
-- executions call it for each execution of a job with windows.
LANGUAGE plpgsql IMMUTABLE STRICT
AS $$
DECLARE
    v_local timestamp;
    v_minute integer;  -- since 1970, which began on a Thursday
    v_change integer;  -- of the clock, in minutes
    v_opening timestamptz;
BEGIN
    v_local := timezone(zone, at);  -- not in DECLARE, where EXCEPTION does not apply
    v_minute := floor(date_part('epoch', v_local) / 60);
    IF timezone(zone, at - interval '48 hours') + interval '48 hours' = v_local THEN
        FOR i IN 1 .. cardinality(windows) BY 3 LOOP
            -- Whether its start time was less than its duration ago, and on one of its days.
            IF (v_minute - windows[i + 1]) % 1440 < windows[i + 2]
               AND windows[i] & (1 << ((v_minute - windows[i + 1]) / 1440 + 3) % 7) <> 0 THEN
                -- Another window can have been open just before this one opened.
                RETURN (v_minute - windows[i + 1]) % 1440 > 0
                    OR delay <= date_part('second', v_local)
                    OR jobs.is_window_open(windows, zone, at - make_interval(secs => delay));
            END IF;
        END LOOP;
        RETURN false;
    END IF;

    -- The clock changed in the last 48 hours, so a difference of local times is not elapsed time. They differ by
    -- at most the change. window_opening is slow, so it is called only for windows that can be open.
    v_change := ceil(abs(date_part(
        'epoch', v_local - timezone(zone, at - interval '48 hours') - interval '48 hours'
    )) / 60);
    FOR v_day IN v_minute / 1440 - 2 .. v_minute / 1440 + 1 LOOP
        FOR i IN 1 .. cardinality(windows) BY 3 LOOP
            IF v_minute - v_day * 1440 - windows[i + 1]
                   BETWEEN -v_change AND windows[i + 2] + v_change - 1
               AND windows[i] & (1 << (v_day + 3) % 7) <> 0 THEN
                v_opening := jobs.window_opening(
                    zone,
                    timestamp '1970-01-01' + make_interval(days => v_day, mins => windows[i + 1])
                );
                IF at >= v_opening AND at < v_opening + make_interval(mins => windows[i + 2]) THEN
                    RETURN delay = 0
                        OR jobs.is_window_open(windows, zone, at - make_interval(secs => delay));
                END IF;
            END IF;
        END LOOP;
    END LOOP;
    RETURN false;
EXCEPTION
    WHEN invalid_parameter_value THEN
        RETURN jobs.is_window_open(windows, 'UTC', at, delay);
END $$;
