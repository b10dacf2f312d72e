-- The sessions of this role in this database, other than this one.
SELECT count(*) AS open,
       count(*) FILTER (WHERE state <> 'idle') AS busy,
       count(*) FILTER (WHERE wait_event_type = 'Lock') AS blocked,
       coalesce(extract(epoch FROM max(clock_timestamp() - query_start)
                FILTER (WHERE state <> 'idle')), 0)::double precision AS longest_seconds
FROM pg_stat_activity
WHERE usename = current_user AND datname = current_database() AND pid <> pg_backend_pid()
