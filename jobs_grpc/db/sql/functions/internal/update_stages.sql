-- Changes the names, rates and gates of the stages of a job that have not passed. p_stages has all
-- stages. The caller holds the job lock and has set the tenant.
--
-- Raises STAGE_FIXED (with the field and the problem) if p_stages has another number of stages, a size
-- or an approval differs, or a stage that has passed differs.
CREATE OR REPLACE FUNCTION jobs.update_stages(
    p_tenant_id text, p_job_id text,
    p_stages jsonb,  -- as in jobs.jobs.request
    p_now timestamptz
) RETURNS void
LANGUAGE plpgsql
-- settings: lookup
AS $$
DECLARE
    v_open_stage smallint;
    v_stage record;
    v_new jobs.job_stages;
    v_path text;
    v_fixed text;
    v_stages integer := (
        SELECT count(*) FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
    );
    v_old_rate integer;
BEGIN
    SELECT j.open_stage, j.release_rate INTO v_open_stage, v_old_rate
    FROM jobs.jobs j
    WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id;

    IF jsonb_array_length(p_stages) <> v_stages THEN
        PERFORM jobs.raise_error(
            'STAGE_FIXED', 'rollout.stages',
            jsonb_build_object('problem', format('must have %s stages, as the job has', v_stages))
        );
    END IF;

    FOR v_stage IN
        SELECT s.*
        FROM jobs.job_stages s
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id
        ORDER BY s.stage
    LOOP
        v_new := jsonb_populate_record(
            NULL::jobs.job_stages,
            '{"bake_seconds": 0, "require_approval": false, "allow_self_approval": false,'
            ' "allow_empty": false}'
            || (p_stages -> v_stage.stage)
        );
        v_path := format('rollout.stages[%s]', v_stage.stage);
        v_fixed := CASE
            WHEN (v_new.device_count, v_new.percent, v_new.group_id, v_new.selector)
                 IS DISTINCT FROM
                 (v_stage.device_count, v_stage.percent, v_stage.group_id, v_stage.selector)
                THEN CASE WHEN v_new.device_count IS NOT NULL THEN '.device_count'
                          WHEN v_new.percent IS NOT NULL THEN '.percent'
                          WHEN v_new.group_id IS NOT NULL THEN '.group_id'
                          WHEN v_new.selector IS NOT NULL THEN '.selector'
                          ELSE '.remainder' END
            WHEN v_new.allow_empty <> v_stage.allow_empty
                THEN '.allow_empty'
            WHEN v_new.require_approval <> v_stage.require_approval
                THEN '.gate.require_approval'
            WHEN v_new.allow_self_approval <> v_stage.allow_self_approval
                THEN '.gate.allow_self_approval'
            WHEN v_stage.stage >= v_open_stage THEN NULL
            WHEN v_new.display_name <> v_stage.display_name THEN '.display_name'
            WHEN v_new.releases_per_minute IS DISTINCT FROM v_stage.releases_per_minute
                THEN '.releases_per_minute'
            WHEN (v_new.min_succeeded_percent, v_new.bake_seconds, v_new.advance_after_seconds)
                 IS DISTINCT FROM
                 (v_stage.min_succeeded_percent, v_stage.bake_seconds,
                  v_stage.advance_after_seconds)
                THEN '.gate'
        END;
        IF v_fixed IS NOT NULL THEN
            PERFORM jobs.raise_error(
                'STAGE_FIXED', v_path || v_fixed,
                jsonb_build_object(
                    'problem',
                    CASE WHEN v_fixed IN ('.display_name', '.releases_per_minute', '.gate')
                         THEN 'must not change: the stage has passed'
                         ELSE 'must not change' END
                )
            );
        END IF;

        UPDATE jobs.job_stages s
        SET display_name = v_new.display_name, releases_per_minute = v_new.releases_per_minute,
            min_succeeded_percent = v_new.min_succeeded_percent,
            bake_seconds = v_new.bake_seconds,
            advance_after_seconds = v_new.advance_after_seconds
        WHERE s.tenant_id = p_tenant_id AND s.job_id = p_job_id AND s.stage = v_stage.stage
          AND s.stage >= v_open_stage;

        IF v_stage.stage = v_open_stage
           AND v_new.releases_per_minute IS DISTINCT FROM v_old_rate THEN
            PERFORM jobs.set_release(
                p_tenant_id, p_job_id, v_stage.last_rank, v_new.releases_per_minute, p_now
            );
        END IF;
    END LOOP;
END $$;
