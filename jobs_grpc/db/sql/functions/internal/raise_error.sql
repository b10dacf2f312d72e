-- Raises an error of the service. Each has its own SQLSTATE, which sqlstates.py maps to an
-- exception. p_status becomes the DETAIL: the status that does not allow the call, the
-- stage, or the field. p_facts becomes the HINT: what else the message says, as JSON.
CREATE OR REPLACE FUNCTION jobs.raise_error(
    p_error text, p_status text DEFAULT '', p_facts jsonb DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_sqlstate text := CASE p_error
        WHEN 'DEVICE_NOT_FOUND'      THEN 'JB001'  -- the tenant has no such device
        WHEN 'GROUP_EMPTY'           THEN 'JB002'  -- the group has no members
        WHEN 'TENANT_EMPTY'          THEN 'JB003'  -- the tenant has no devices
        WHEN 'JOB_ALREADY_EXISTS'    THEN 'JB004'  -- of a different request or a deleted job
        WHEN 'JOB_NOT_FOUND'         THEN 'JB005'  -- the tenant has no such job, or it is deleted
        WHEN 'JOB_NOT_CANCELABLE'    THEN 'JB006'  -- the job is finished
        WHEN 'EXECUTION_NOT_FOUND'   THEN 'JB007'  -- the job does not target the device
        WHEN 'EXECUTION_FINISHED'    THEN 'JB008'  -- in a terminal status
        WHEN 'EXECUTION_IN_PROGRESS' THEN 'JB009'  -- only a forced cancel ends it
        WHEN 'JOB_NOT_RETRYABLE'     THEN 'JB010'  -- canceled, or still expired after the retry
        WHEN 'JOB_NOT_DELETABLE'     THEN 'JB011'  -- in progress, or one of its executions is
        WHEN 'TOO_MANY_TARGETS'      THEN 'JB012'  -- more than JOBS_MAX_TARGETS
        WHEN 'TOO_MANY_ACTIVE_JOBS'  THEN 'JB013'  -- more than JOBS_MAX_ACTIVE_JOBS
        WHEN 'JOB_NOT_PAUSABLE'      THEN 'JB014'  -- the job is finished
        WHEN 'JOB_NOT_RESUMABLE'     THEN 'JB015'  -- the job is finished
        WHEN 'JOB_CHANGED'           THEN 'JB016'  -- the job has another etag
        WHEN 'STAGES_TOO_SMALL'      THEN 'JB017'  -- they have no room for all devices
        WHEN 'GATE_NOT_MET'          THEN 'JB018'  -- a resumed job would not continue
        WHEN 'APPROVAL_REQUIRED'     THEN 'JB019'  -- for the next stage to open
        WHEN 'STAGE_NOT_APPROVABLE'  THEN 'JB020'  -- not open, no approval, or the job is finished
        WHEN 'SELF_APPROVAL'         THEN 'JB021'  -- by the creator of the job
        WHEN 'JOB_NOT_ADVANCEABLE'   THEN 'JB022'  -- no next stage, or the job is finished
        WHEN 'JOB_NOT_UPDATABLE'     THEN 'JB023'  -- the job is finished
        WHEN 'STAGE_FIXED'           THEN 'JB024'  -- UpdateJob must not change this field
        WHEN 'ROLLOUT_MISSING'       THEN 'JB025'  -- the job has none, so it can't have this field
        WHEN 'STAGE_EMPTY'           THEN 'JB026'  -- a stage of a group has no devices
        WHEN 'EXPIRY_TOO_EARLY'      THEN 'JB027'  -- the rollout can't end before the job expires
        WHEN 'EXPIRY_OUT_OF_RANGE'   THEN 'JB028'  -- not later than now, or too far ahead
    END;
BEGIN
    RAISE EXCEPTION '%', p_error USING ERRCODE = v_sqlstate, DETAIL = p_status,
        HINT = coalesce(p_facts::text, '');
END $$;
