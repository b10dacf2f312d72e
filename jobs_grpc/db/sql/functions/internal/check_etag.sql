-- Raises JOB_CHANGED unless p_etag is empty or is the etag of a job with this revision.
CREATE OR REPLACE FUNCTION jobs.check_etag(p_etag text, p_revision integer) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF p_etag <> '' AND p_etag <> p_revision::text THEN
        PERFORM jobs.raise_error('JOB_CHANGED');
    END IF;
END $$;
