-- Sets the time of read_time until the end of the transaction.
--
-- Readers must see an execution as released before they see it as started, or the count of HELD
-- executions includes some that have started. So the time must not be earlier than the snapshot of
-- the query. The start of the transaction can be. A function that reads is therefore STABLE, so that
-- its queries have the snapshot of the caller's statement, and calls this one before it reads. A
-- function that writes passes the time at which it got the job lock: nothing starts while it is held.
CREATE OR REPLACE FUNCTION jobs.set_read_time(at timestamptz) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM set_config('app.read_time', at::text, true);
END $$;
