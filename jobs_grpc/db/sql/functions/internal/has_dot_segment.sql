-- Returns whether an ID has a segment "." or "..", where "/" and "\" separate segments: REST clients and
-- proxies would normalize it to the path of another resource. The same rule as in jobs_grpc/contract/dot_segments.py.
-- LIKE excludes most IDs in a fraction of the time.
CREATE OR REPLACE FUNCTION jobs.has_dot_segment(id text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT id COLLATE "C" LIKE '%.%' AND id COLLATE "C" ~ '(^|[/\\])\.\.?($|[/\\])'
$$;
