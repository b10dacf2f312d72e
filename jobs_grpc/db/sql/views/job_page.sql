-- A job with a page of its executions: the type of the row that get_job returns. The view has no rows.
CREATE OR REPLACE VIEW jobs.job_page WITH (security_invoker = true) AS
SELECT
    p.*,
    d.*,
    NULL::json AS window_state
FROM jobs.execution_page p
CROSS JOIN jobs.job_details d;
