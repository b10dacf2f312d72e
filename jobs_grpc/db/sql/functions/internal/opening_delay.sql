-- Returns how many seconds after a start window opens the server tells a device: 0 to 60, always the same
-- for a device. So devices do not all start at once. A start that does not wait to be told is accepted.
CREATE OR REPLACE FUNCTION jobs.opening_delay(device_id text) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (hashtextextended(device_id, 0) & 65535) * 60 / 65536.0::double precision;
