-- How many connections this role can have, and how many others are open: all of them except up to $1
-- of this role, which can be those of the server that is examined.
SELECT current_setting('max_connections')::integer
       - current_setting('superuser_reserved_connections')::integer
       -- From PostgreSQL 16 on.
       - coalesce(current_setting('reserved_connections', true)::integer, 0) AS server_limit,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_limit,
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database())
           AS database_limit,
       (SELECT count(*) - least(count(*) FILTER (WHERE usename = current_user), $1::integer)
        FROM pg_stat_activity
        -- Not by backend_type, which this role does not see of other roles.
        WHERE usesysid IS NOT NULL AND datid IS NOT NULL AND pid <> pg_backend_pid()) AS others
