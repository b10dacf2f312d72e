-- Functions of earlier versions that are gone, or that CREATE OR REPLACE would not replace: with other
-- parameters it creates another function, and with other columns it fails.
DROP FUNCTION IF EXISTS jobs.check_etag(text, integer);
DROP FUNCTION IF EXISTS jobs.check_stage_sizes(integer[], integer);
DROP FUNCTION IF EXISTS jobs.create_job(
    text, text, text, jsonb, text, text, boolean, integer, integer, text, integer, integer, jsonb,
    jsonb, boolean
);
DROP FUNCTION IF EXISTS jobs.create_staged_executions(
    text, text, text, text, boolean, jsonb, timestamptz
);
DROP FUNCTION IF EXISTS jobs.execution_page(text, text, text, text, integer);
DROP FUNCTION IF EXISTS jobs.execution_page_of_failure(text, text, text, text, text, integer);
DROP FUNCTION IF EXISTS jobs.execution_page_of_status(text, text, text, text, integer);
DROP FUNCTION IF EXISTS jobs.finalize_executions(text, text, text, integer, integer);
DROP FUNCTION IF EXISTS jobs.finalize_job(text, text, text, integer, integer);
DROP FUNCTION IF EXISTS jobs.finished_while_held(text, text, integer, integer);
DROP FUNCTION IF EXISTS jobs.get_job(text, text, integer);
-- The type of its result, from two views that can get more columns.
DROP VIEW IF EXISTS jobs.job_page;
DROP FUNCTION IF EXISTS jobs.is_pending_at(
    jobs.execution_status, timestamptz, boolean, timestamptz, timestamptz, integer, integer,
    integer, integer, timestamptz, timestamptz
);
DROP FUNCTION IF EXISTS jobs.job_fingerprint(
    xid, xid, timestamptz, integer, integer, integer, timestamptz, timestamptz, timestamptz
);
DROP FUNCTION IF EXISTS jobs.list_device_executions(
    text, text, text, text, timestamptz, text, integer, text
);
DROP FUNCTION IF EXISTS jobs.list_execution_attempts(text, text, text, integer, integer);
DROP FUNCTION IF EXISTS jobs.list_job_executions(text, text, text, text, integer, text);
DROP FUNCTION IF EXISTS jobs.pending_fingerprints(text, text[]);
DROP FUNCTION IF EXISTS jobs.pending_text(text, integer, timestamptz, timestamptz, text);
DROP FUNCTION IF EXISTS jobs.raise_error(text, text);
DROP FUNCTION IF EXISTS jobs.retry_executions(
    text, text, text[], integer, boolean, integer, text[], text[]
);
DROP FUNCTION IF EXISTS jobs.slots_text(integer, integer, integer);
DROP FUNCTION IF EXISTS jobs.update_job(text, text, text, text[], integer, jsonb, jsonb);
DROP FUNCTION IF EXISTS jobs.write_final_statuses(text, text, text, integer, integer);
