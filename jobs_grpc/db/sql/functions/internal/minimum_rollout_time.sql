-- Returns how long a rollout takes if every device succeeds as soon as it is released and every approval
-- is given at once: {"seconds": 7800, "stages": [{"stage": 0, "seconds": 600, "bake_seconds": 600}, …]}.
-- Stages that take no time are left out. Each has `advance_after`: true, or `bake_seconds` and, if it
-- waits for releases, `release_seconds`, `devices` and `releases_per_minute`.
--
-- The last four parameters are the progress of a job; the defaults are those of a new job.
CREATE OR REPLACE FUNCTION jobs.minimum_rollout_time(
    p_stages jsonb,                      -- as in jobs.jobs.request, or rows of jobs.job_stages
    p_sizes integer[],                   -- of the stages
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
    v_last_stage integer := cardinality(p_sizes) - 1;
    v_stage jsonb;
    v_size integer;
    v_rate integer;
    v_is_released boolean;     -- no execution of the stage waits for its release
    v_last_rank integer := 0;
    v_end integer := 0;        -- the last rank that has to be released
    v_needed integer;          -- the rank whose release meets the gate, or ends the job
    v_release_seconds numeric;
    v_bake_seconds numeric;
    v_advance_seconds numeric; -- NULL: never
    v_seconds numeric;         -- of the stage
    v_total numeric := 0;
    v_terms jsonb := '[]';
BEGIN
    FOR v_number IN 0 .. v_last_stage LOOP
        v_stage := p_stages -> v_number;
        v_size := p_sizes[v_number + 1];
        v_is_released := coalesce((v_stage ->> 'queued')::integer, v_size) = 0;
        v_last_rank := v_last_rank + v_size;
        IF NOT v_is_released THEN
            v_end := v_last_rank;
        END IF;
        CONTINUE WHEN v_number < p_open_stage;

        v_rate := (v_stage ->> 'releases_per_minute')::integer;
        v_needed := CASE
            WHEN v_number = v_last_stage THEN v_end
            WHEN v_is_released OR v_met_seconds IS NOT NULL THEN 0
            -- Rounded up to whole devices, as the gate does.
            ELSE v_last_rank - v_size
                 + (coalesce((v_stage ->> 'min_succeeded_percent')::bigint, 100) * v_size + 99) / 100
        END;
        v_release_seconds := CASE
            WHEN v_rate IS NULL THEN 0
            ELSE greatest(v_needed - v_released, 0) * 60 / v_rate
        END;
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
        v_seconds := least(v_release_seconds + v_bake_seconds, v_advance_seconds);

        IF v_seconds > 0 THEN
            v_terms := v_terms || jsonb_build_array(jsonb_strip_nulls(
                jsonb_build_object('stage', v_number, 'seconds', v_seconds)
                || CASE
                    WHEN v_advance_seconds < v_release_seconds + v_bake_seconds
                        THEN jsonb_build_object('advance_after', true)
                    WHEN v_release_seconds = 0
                        THEN jsonb_build_object('bake_seconds', v_bake_seconds)
                    ELSE jsonb_build_object(
                        'bake_seconds', v_bake_seconds, 'release_seconds', v_release_seconds,
                        'devices', ceil(v_needed - v_released), 'releases_per_minute', v_rate
                    )
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
