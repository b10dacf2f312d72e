-- Returns a text that changes when a slot becomes free in a job with max_in_progress: part of a
-- fingerprint. While the job is full, it has no count of finished executions, because the slot of
-- each is taken at once. Otherwise it has one, because the job may have been full since the last poll.
CREATE OR REPLACE FUNCTION jobs.slots_text(
    max_in_progress integer, in_progress integer, finished integer
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN in_progress >= max_in_progress THEN 'full'
    ELSE max_in_progress::text || '/' || finished::text
END;
