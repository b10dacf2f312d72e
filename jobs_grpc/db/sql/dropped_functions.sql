-- Functions whose file was removed. Their names are listed one release after that, because servers of the
-- previous version call them during an upgrade. What has a file is replaced by views_and_functions.py.
DROP FUNCTION IF EXISTS jobs.check_expiry(jsonb, numeric);
DROP FUNCTION IF EXISTS jobs.check_job_expiry(text, text, timestamptz);
DROP FUNCTION IF EXISTS jobs.create_request(text, text, text, integer, boolean, integer, jsonb, jsonb);
DROP FUNCTION IF EXISTS jobs.execution_page(text, text, text, text, integer);
DROP FUNCTION IF EXISTS jobs.execution_page_of_failure(text, text, text, text, text, integer);
DROP FUNCTION IF EXISTS jobs.execution_page_of_status(text, text, text, text, integer);
DROP FUNCTION IF EXISTS jobs.finalize_job(text, text, text, integer, integer);
DROP FUNCTION IF EXISTS jobs.finished_while_held(text, text, integer, integer);
DROP FUNCTION IF EXISTS jobs.is_pending_at(
    jobs.execution_status, timestamptz, boolean, timestamptz, timestamptz, integer, integer,
    integer, integer, timestamptz, timestamptz
);
DROP FUNCTION IF EXISTS jobs.job_fingerprint(
    xid, xid, timestamptz, integer, integer, integer, timestamptz, timestamptz, timestamptz
);
DROP FUNCTION IF EXISTS jobs.job_targets(text, text, text, boolean, text[]);
DROP FUNCTION IF EXISTS jobs.open_stages(text, text, timestamptz);
DROP FUNCTION IF EXISTS jobs.pending_fingerprints(text, text[]);
DROP FUNCTION IF EXISTS jobs.pending_text(text, integer, timestamptz, timestamptz, text);
DROP FUNCTION IF EXISTS jobs.slots_text(integer, integer, integer);
DROP FUNCTION IF EXISTS jobs.validate_targets(text, text, text, boolean, jsonb);
DROP FUNCTION IF EXISTS jobs.write_final_statuses(text, text, text, integer, integer);
