-- Returns how long it takes until all stages are open and all executions have started, if every device
-- starts as soon as it can and succeeds at once, and every approval is given at once:
-- {"seconds": 7800, "stages": [{"stage": 0, "seconds": 600, "bake_seconds": 600}, …]}.
-- Stages that take no time are left out. A stage that advance_after ends has `advance_after`: true. Others
-- have `bake_seconds`; `window_seconds` if they wait for a start window; and `release_seconds`, `devices` and
-- `releases_per_minute` if they wait for releases. Without a rollout, the only element has no `stage`.
--
-- Releases, bake_time and advance_after continue while no start window is open; only starts wait. If the
-- windows are in the time zones of the devices, the time is a lower bound, because any device can be the next
-- one.
--
-- The last four parameters are the progress of a job; the defaults are those of a new job.
CREATE OR REPLACE FUNCTION jobs.minimum_rollout_time(
    -- As in jobs.jobs.request, or rows of jobs.job_stages; NULL: no rollout.
    p_stages jsonb,
    p_sizes integer[],                   -- of the stages; without a rollout, of the job
    p_from timestamptz,                  -- the start of the job, or now if that is later
    p_start_windows integer[] DEFAULT NULL,  -- NULL: devices can start at any time
    -- The time zone of the windows, or those of the devices that have not started.
    p_time_zones text[] DEFAULT NULL,
    p_open_stage integer DEFAULT 0,
    p_released numeric DEFAULT 0,        -- see release_progress_at
    p_open_seconds numeric DEFAULT 0,    -- how long the stage has been open
    p_met_seconds numeric DEFAULT NULL   -- how long its gate has been met; NULL: it is not met
) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    v_released numeric := p_released;
    v_open_seconds numeric := p_open_seconds;
    v_met_seconds numeric := p_met_seconds;
    v_stages jsonb := coalesce(p_stages, '[{}]');
    v_last_stage integer := cardinality(p_sizes) - 1;
    v_stage jsonb;
    v_size integer;
    v_rate integer;
    v_is_released boolean;     -- no execution of the stage waits for its start
    v_last_rank integer := 0;
    v_end integer := 0;        -- the last rank that has to start
    v_needed integer;          -- the rank whose release meets the gate, or ends the job
    v_needed_successes bigint; -- in the stage; NULL: all executions that are not finished must end
    v_release_seconds numeric;
    v_end_seconds numeric := 0; -- when v_end is released
    v_released_at timestamptz;
    v_due_ats timestamptz[];   -- of the devices of each zone, from v_due_from on
    v_due_from timestamptz;
    v_started_at timestamptz;
    v_window_seconds numeric;
    v_bake_seconds numeric;
    v_advance_seconds numeric; -- NULL: never
    v_ready_seconds numeric;   -- until the gate is met, or until the last start
    v_seconds numeric;         -- of the stage
    v_total numeric := 0;
    v_terms jsonb := '[]';
BEGIN
    FOR v_number IN 0 .. v_last_stage LOOP
        v_stage := v_stages -> v_number;
        v_size := p_sizes[v_number + 1];
        v_is_released := coalesce((v_stage ->> 'queued')::integer, v_size) = 0;
        v_last_rank := v_last_rank + v_size;
        IF NOT v_is_released THEN
            v_end := v_last_rank;
        END IF;
        CONTINUE WHEN v_number < p_open_stage;

        v_rate := (v_stage ->> 'releases_per_minute')::integer;
        -- Rounded up to whole devices, as the gate does.
        v_needed_successes := CASE WHEN v_number < v_last_stage THEN
            ((v_stage ->> 'min_succeeded_percent')::bigint * v_size + 99) / 100
        END;
        v_needed := CASE
            WHEN v_number = v_last_stage THEN v_end
            WHEN v_is_released OR v_met_seconds IS NOT NULL THEN 0
            ELSE v_last_rank - v_size + coalesce(v_needed_successes, v_size)
        END;
        -- Rounded to microseconds, because p_released can be a repeating fraction.
        v_release_seconds := CASE
            WHEN v_rate IS NULL THEN 0
            ELSE round(greatest(v_needed - v_released, 0) * 60 / v_rate, 6)
        END;
        -- In an earlier stage if the stages from then on are empty.
        IF v_end > v_released THEN
            v_end_seconds := v_total + coalesce((v_end - v_released) * 60 / v_rate, 0);
        END IF;
        v_window_seconds := 0;
        -- Executions that have started can succeed outside the windows.
        IF p_start_windows IS NOT NULL AND v_needed > 0
            AND coalesce(v_needed_successes > coalesce((v_stage ->> 'succeeded')::integer, 0)
                         + coalesce((v_stage ->> 'in_progress')::integer, 0), true)
        THEN
            v_released_at := p_from + make_interval(secs => CASE
                WHEN v_number = v_last_stage THEN v_end_seconds
                ELSE v_total + v_release_seconds
            END);
            -- A due_at that has not been reached is still the first: a tenant can have hundreds of zones.
            v_due_ats := ARRAY(
                SELECT CASE WHEN v_released_at BETWEEN v_due_from AND z.due_at THEN z.due_at
                            ELSE jobs.due_at(NULL, p_start_windows, z.name, v_released_at) END
                FROM unnest(p_time_zones, v_due_ats) WITH ORDINALITY AS z (name, due_at, n)
                ORDER BY z.n
            );
            v_due_from := v_released_at;
            v_started_at := (SELECT min(d) FROM unnest(v_due_ats) AS d);
            IF v_number = v_last_stage THEN
                -- Each zone has a device that has not started.
                v_started_at := (
                    SELECT greatest(
                        v_started_at, max(jobs.due_at(NULL, p_start_windows, z, p_from))
                    )
                    FROM unnest(p_time_zones) AS z
                );
            END IF;
            v_window_seconds := greatest(
                extract(epoch FROM v_started_at - p_from) - v_total - v_release_seconds, 0
            );
        END IF;
        v_bake_seconds := 0;
        v_advance_seconds := NULL;
        IF v_number < v_last_stage THEN
            -- An empty stage has no bake_time.
            IF v_size > 0 THEN
                v_bake_seconds := greatest(
                    coalesce((v_stage ->> 'bake_seconds')::numeric, 0) - coalesce(v_met_seconds, 0), 0
                );
            END IF;
            IF v_stage ->> 'advance_after_seconds' IS NOT NULL THEN
                v_advance_seconds := greatest(
                    (v_stage ->> 'advance_after_seconds')::numeric - v_open_seconds, 0
                );
            END IF;
        END IF;
        v_ready_seconds := v_release_seconds + v_window_seconds + v_bake_seconds;
        v_seconds := least(v_ready_seconds, v_advance_seconds);

        IF v_seconds > 0 THEN
            v_terms := v_terms || jsonb_build_array(jsonb_strip_nulls(
                jsonb_build_object(
                    'stage', CASE WHEN p_stages IS NOT NULL THEN v_number END, 'seconds', v_seconds
                )
                || CASE
                    WHEN v_advance_seconds < v_ready_seconds
                        THEN jsonb_build_object('advance_after', true)
                    ELSE jsonb_build_object(
                        'bake_seconds', v_bake_seconds, 'window_seconds', nullif(v_window_seconds, 0)
                    ) || CASE
                        WHEN v_release_seconds = 0 THEN '{}'
                        ELSE jsonb_build_object(
                            'release_seconds', v_release_seconds,
                            'devices', ceil(v_needed - v_released), 'releases_per_minute', v_rate
                        )
                    END
                END
            ));
        END IF;
        v_total := v_total + v_seconds;
        -- Rounded, because a rate of 7 per minute has no exact number of seconds per release.
        v_released := CASE
            WHEN v_rate IS NULL THEN v_last_rank
            ELSE least(v_last_rank, round(v_released + v_seconds * v_rate / 60, 6))
        END;
        v_open_seconds := 0;
        v_met_seconds := NULL;
    END LOOP;
    RETURN jsonb_build_object('seconds', v_total, 'stages', v_terms);
END $$;
