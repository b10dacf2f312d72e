-- Returns the status_details of an execution that its job's cancel or expiry moved to `status`.
CREATE OR REPLACE FUNCTION jobs.final_status_details(
    status jobs.execution_status, cancel_reason text
) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN status = 'REJECTED' THEN jsonb_build_object('reason', cancel_reason)
    ELSE '{"reason": "job expired"}'
END;
