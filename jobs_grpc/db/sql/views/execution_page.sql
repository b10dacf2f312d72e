-- A page of executions with one array per column, in the order of device_id: the type of the rows that
-- list_job_executions returns, and of a part of those of get_job. The view has no rows.
--
-- It is cheaper to send and decode than thousands of rows. The arrays are NULL if the page is empty. Those of
-- rare fields are also NULL if no execution of the page has one of their values. Executions after the first
-- 8 MiB of details, as text, have neither a status nor details. A response has no room for them: it has at
-- most 4 MiB.
CREATE OR REPLACE VIEW jobs.execution_page WITH (security_invoker = true) AS
SELECT
    NULL::text[] AS device_ids,
    NULL::text[] AS statuses,
    NULL::jsonb[] AS status_details,
    /* for each other FIELD: NULL::TYPE[] AS FIELDs */,
    NULL::timestamptz AS job_created_at
WHERE false;
