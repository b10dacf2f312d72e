SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::integer AS version_number,
       current_database()::text AS database,
       current_user::text AS role,
       current_setting('transaction_read_only')::boolean AS read_only
