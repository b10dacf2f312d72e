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
    -- In the order of their SQLSTATEs: JB001, JB002 …
    v_errors CONSTANT text[] := '{
        DEVICE_NOT_FOUND, GROUP_EMPTY, TENANT_EMPTY, JOB_ALREADY_EXISTS, JOB_NOT_FOUND,
        JOB_NOT_CANCELABLE, EXECUTION_NOT_FOUND, EXECUTION_FINISHED, EXECUTION_IN_PROGRESS,
        JOB_NOT_RETRYABLE, JOB_NOT_DELETABLE, TOO_MANY_TARGETS, TOO_MANY_ACTIVE_JOBS,
        JOB_NOT_PAUSABLE, JOB_NOT_RESUMABLE, JOB_CHANGED, STAGES_TOO_SMALL, GATE_NOT_MET,
        APPROVAL_REQUIRED, STAGE_NOT_APPROVABLE, SELF_APPROVAL, JOB_NOT_ADVANCEABLE,
        JOB_NOT_UPDATABLE, STAGE_FIXED, ROLLOUT_MISSING, STAGE_EMPTY, EXPIRY_TOO_EARLY,
        EXPIRY_OUT_OF_RANGE, SUBJECT_REQUIRED, TIME_GATES_UNAVAILABLE, DEVICES_NOT_FOUND,
        DEVICES_READ_ONLY, TOO_MANY_LABELS, TARGET_EMPTY, TARGET_CHANGED, START_OUT_OF_RANGE,
        EVALUATION_RUNNING, ZONE_NOT_ALLOWED, EVENTS_PURGED, POSITION_UNKNOWN,
        WEBHOOK_NOT_FOUND, TOO_MANY_WEBHOOKS, TOO_MANY_WEBHOOK_RESTARTS, DOT_SEGMENT,
        TOO_MANY_DEVICES, REPLACEMENT_SCHEDULED, START_NOT_APPROVED, START_NOT_APPROVABLE,
        TOO_MANY_CONTINUOUS_JOBS, JOB_NOT_CONTINUOUS
    }';
BEGIN
    RAISE EXCEPTION '%', p_error USING
        ERRCODE = 'JB' || to_char(array_position(v_errors, p_error), 'FM000'),
        DETAIL = p_detail, HINT = coalesce(p_facts::text, '');
END $$;
