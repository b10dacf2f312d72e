-- Transactions and slots that keep VACUUM from removing dead rows of this database: those older than $1 seconds, or
-- older than $2 transactions if this role does not see when they began. The oldest first.
SELECT h.kind, h.name, h.role, h.seconds, h.transactions, h.remedy
FROM (
    SELECT 'session' AS kind, a.pid::text AS name, a.usename::text AS role,
           extract(epoch FROM clock_timestamp() - a.xact_start)::double precision AS seconds,
           greatest(age(a.backend_xmin), age(a.backend_xid)) AS transactions,
           format('SELECT pg_terminate_backend(%s); ALTER ROLE %I SET idle_in_transaction_session_timeout = ''10min'';',
                  a.pid, a.usename) AS remedy
    FROM pg_stat_activity a
    -- Without a database: a standby with hot_standby_feedback. Without a user: autovacuum.
    WHERE (a.datname = current_database() OR a.datid IS NULL) AND a.usesysid IS NOT NULL
      AND a.pid <> pg_backend_pid()
    UNION ALL
    SELECT 'prepared transaction', p.gid, p.owner::text,
           extract(epoch FROM clock_timestamp() - p.prepared)::double precision, age(p.transaction),
           format('ROLLBACK PREPARED %L;', p.gid)
    FROM pg_prepared_xacts p
    WHERE p.database = current_database()
    UNION ALL
    SELECT 'replication slot', s.slot_name::text, NULL, NULL, age(s.xmin),
           format('SELECT pg_drop_replication_slot(%L);', s.slot_name)
    FROM pg_replication_slots s
) h
-- NULL: it keeps no row.
WHERE h.transactions IS NOT NULL
  AND CASE WHEN h.seconds IS NULL THEN h.transactions > $2::integer ELSE h.seconds > $1::double precision END
ORDER BY h.transactions DESC
LIMIT 3
