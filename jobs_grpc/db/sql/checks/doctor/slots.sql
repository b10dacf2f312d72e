-- The replication slots that keep more than $1 bytes of WAL, the most first.
SELECT s.slot_name::text AS name, s.active, h.bytes::bigint AS bytes,
       format('SELECT pg_drop_replication_slot(%L);', s.slot_name) AS remedy
FROM pg_replication_slots s
CROSS JOIN LATERAL (
    SELECT pg_wal_lsn_diff(
               CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, s.restart_lsn
           ) AS bytes
) h
WHERE h.bytes > $1::bigint
ORDER BY h.bytes DESC
LIMIT 3
