-- Raises an error of the service by the name of its exception, which sqlstates.py creates.
-- p_detail becomes the DETAIL: the status that does not allow the call, the stage, or the field.
-- p_facts becomes the HINT: other arguments of the exception that are not arguments of the call.
--
-- `make errors-reference` writes the SQLSTATEs, which jobs_grpc/errors.py and sqlstates.py declare.
CREATE OR REPLACE FUNCTION jobs.raise_error(
    p_error text, p_detail text DEFAULT '', p_facts jsonb DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_sqlstate text := CASE p_error
        WHEN 'DEVICE_NOT_FOUND' THEN 'JB001'
        WHEN 'GROUP_EMPTY' THEN 'JB002'
        WHEN 'TENANT_EMPTY' THEN 'JB003'
        WHEN 'JOB_ALREADY_EXISTS' THEN 'JB004'
        WHEN 'JOB_NOT_FOUND' THEN 'JB005'
        WHEN 'JOB_NOT_CANCELABLE' THEN 'JB006'
        WHEN 'EXECUTION_NOT_FOUND' THEN 'JB007'
        WHEN 'EXECUTION_FINISHED' THEN 'JB008'
        WHEN 'EXECUTION_IN_PROGRESS' THEN 'JB009'
        WHEN 'JOB_NOT_RETRYABLE' THEN 'JB010'
        WHEN 'JOB_NOT_DELETABLE' THEN 'JB011'
        WHEN 'TOO_MANY_TARGETS' THEN 'JB012'
        WHEN 'TOO_MANY_ACTIVE_JOBS' THEN 'JB013'
        WHEN 'JOB_NOT_PAUSABLE' THEN 'JB014'
        WHEN 'JOB_NOT_RESUMABLE' THEN 'JB015'
        WHEN 'JOB_CHANGED' THEN 'JB016'
        WHEN 'STAGES_TOO_SMALL' THEN 'JB017'
        WHEN 'GATE_NOT_MET' THEN 'JB018'
        WHEN 'APPROVAL_REQUIRED' THEN 'JB019'
        WHEN 'STAGE_NOT_APPROVABLE' THEN 'JB020'
        WHEN 'SELF_APPROVAL' THEN 'JB021'
        WHEN 'JOB_NOT_ADVANCEABLE' THEN 'JB022'
        WHEN 'JOB_NOT_UPDATABLE' THEN 'JB023'
        WHEN 'STAGE_FIXED' THEN 'JB024'
        WHEN 'ROLLOUT_MISSING' THEN 'JB025'
        WHEN 'STAGE_EMPTY' THEN 'JB026'
        WHEN 'EXPIRY_TOO_EARLY' THEN 'JB027'
        WHEN 'EXPIRY_OUT_OF_RANGE' THEN 'JB028'
        WHEN 'SUBJECT_REQUIRED' THEN 'JB029'
        WHEN 'TIME_GATES_UNAVAILABLE' THEN 'JB030'
        WHEN 'DEVICES_NOT_FOUND' THEN 'JB031'
        WHEN 'DEVICES_READ_ONLY' THEN 'JB032'
        WHEN 'TOO_MANY_LABELS' THEN 'JB033'
        WHEN 'TARGET_EMPTY' THEN 'JB034'
        WHEN 'TARGET_CHANGED' THEN 'JB035'
        WHEN 'START_OUT_OF_RANGE' THEN 'JB036'
        WHEN 'EVALUATION_RUNNING' THEN 'JB037'
        WHEN 'ZONE_NOT_ALLOWED' THEN 'JB038'
        WHEN 'EVENTS_PURGED' THEN 'JB039'
        WHEN 'POSITION_UNKNOWN' THEN 'JB040'
        WHEN 'WEBHOOK_NOT_FOUND' THEN 'JB041'
        WHEN 'TOO_MANY_WEBHOOKS' THEN 'JB042'
        WHEN 'TOO_MANY_WEBHOOK_RESTARTS' THEN 'JB043'
        WHEN 'DOT_SEGMENT' THEN 'JB044'
        WHEN 'TOO_MANY_DEVICES' THEN 'JB045'
    END;
BEGIN
    RAISE EXCEPTION '%', p_error USING ERRCODE = v_sqlstate, DETAIL = p_detail,
        HINT = coalesce(p_facts::text, '');
END $$;
