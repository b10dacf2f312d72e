-- Sets the time that read_time returns until the end of the transaction.
--
-- This time must not be earlier than the snapshot of the query. Otherwise, the snapshot can contain
-- executions that were released and started after this time, and they would be counted as HELD. The
-- start of the transaction can be earlier. So a function that only reads is STABLE, which gives its
-- queries the snapshot of the caller's statement, and passes the current time before it reads. A
-- function that writes passes the time at which it got the job lock: no execution starts while it holds
-- the lock.
--
-- PostgreSQL inlines the function, which returns what set_config does.
CREATE OR REPLACE FUNCTION jobs.set_read_time(at timestamptz) RETURNS text
LANGUAGE sql VOLATILE
-- In UTC: some date styles write abbreviations, and CST can also be read as the time of Chicago.
RETURN set_config('app.read_time', timezone('UTC', at) || ' UTC', true);
