-- Returns the time for which readers compute how far a job is released: that of set_read_time, or
-- the start of the transaction.
CREATE OR REPLACE FUNCTION jobs.read_time() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(nullif(current_setting('app.read_time', true), '')::timestamptz, now());
