-- Returns a text that changes when a place becomes free in a job with max_in_progress. While the job
-- is full, the text has no count, because it would change with each execution that finishes, although
-- its place is taken at once. Otherwise it has one, because the job can have been full since the last
-- poll.
CREATE OR REPLACE FUNCTION jobs.places_text(
    max_in_progress integer, in_progress integer, finished integer
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN in_progress >= max_in_progress THEN 'full'
    ELSE max_in_progress::text || '/' || finished::text
END;
