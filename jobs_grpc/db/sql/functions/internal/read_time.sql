-- Returns the time for which readers compute how many executions of a job are released: the time that
-- set_read_time has set, otherwise the start of the transaction.
CREATE OR REPLACE FUNCTION jobs.read_time() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(nullif(current_setting('app.read_time', true), '')::timestamptz, jobs.now());
