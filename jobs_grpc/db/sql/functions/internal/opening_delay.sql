-- Returns the seconds from an opening of a start window until the server tells a device: from 0 to 60, and
-- always the same for a device. The delay spreads the calls. A start without this delay is accepted.
CREATE OR REPLACE FUNCTION jobs.opening_delay(device_id text) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (hashtextextended(device_id, 0) & 65535) * 60 / 65536.0::double precision;
