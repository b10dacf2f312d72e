-- depends on: pg_micros
-- Returns a text that changes when a device would see another state of a pending execution: part of a
-- fingerprint. The version starts again when a job is deleted and created with the same id; queued_at
-- tells the two apart.
CREATE OR REPLACE FUNCTION jobs.pending_text(
    job_id text,
    version integer,
    queued_at timestamptz,
    expires_at timestamptz,  -- of the job
    slots text               -- see slots_text
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN job_id || ' ' || version::text || ' ' || jobs.pg_micros(queued_at)::text
    || coalesce(' ' || jobs.pg_micros(expires_at)::text, '') || coalesce(' ' || slots, '');
