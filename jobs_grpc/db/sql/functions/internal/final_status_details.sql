-- Returns the status_details of an execution that a cancel, or the expiry of its job, moved to `status`.
-- A cancel without a reason gets the platform's text.
CREATE OR REPLACE FUNCTION jobs.final_status_details(
    status jobs.execution_status,
    cancel_reason text  -- '': none
) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN status = 'REJECTED' THEN jsonb_build_object(
        'reason', coalesce(nullif(cancel_reason, ''), 'canceled by operator')
    )
    ELSE '{"reason": "job expired"}'
END;
