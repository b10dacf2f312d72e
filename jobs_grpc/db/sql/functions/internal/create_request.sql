-- Returns a request of create_job in the form that is stored and compared. Leaves out document_params,
-- which is stored as it is, the user, and the server's limits: repeated requests may differ in them.
CREATE OR REPLACE FUNCTION jobs.create_request(
    p_document_type text,
    p_target_device_id text,
    p_target_group_id text,
    p_expires_in_hours integer,
    p_default_expiry boolean,
    p_in_progress_timeout_minutes integer,
    p_rollout jsonb,
    p_failure_criteria jsonb
) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN jsonb_strip_nulls(jsonb_build_object(
    'document_type', p_document_type,
    -- Neither: all devices.
    'target_device_id', p_target_device_id,
    'target_group_id', p_target_group_id,
    -- 0: never. The default depends on the rollout. Without one, it equals a request for 24 hours.
    'expires_in_hours', CASE
        WHEN p_default_expiry AND p_rollout IS NOT NULL THEN NULL
        ELSE coalesce(p_expires_in_hours, 0)
    END,
    'in_progress_timeout_minutes', p_in_progress_timeout_minutes,
    'rollout', p_rollout,
    'failure_criteria', p_failure_criteria
));
