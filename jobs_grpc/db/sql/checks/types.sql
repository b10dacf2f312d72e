-- Returns a value of each type that asyncpg looks up in the catalog when a connection first gets
-- it, so that no call has to wait for that.
SELECT NULL::boolean[], NULL::smallint[], NULL::integer[], NULL::bigint[], NULL::jsonb[],
       NULL::timestamptz[], NULL::double precision[], NULL::uuid[], NULL::jobs.job_status,
       NULL::jobs.execution_status
