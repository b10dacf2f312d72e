-- What is said of an execution that its job's end made `status`.
CREATE OR REPLACE FUNCTION jobs.execution_end_details(
    status jobs.execution_status, cancel_reason text
) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN status = 'REJECTED' THEN jsonb_build_object('reason', cancel_reason)
    ELSE '{"reason": "job expired"}'
END;
