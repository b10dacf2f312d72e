-- Returns whether this PostgreSQL knows a time zone. The list of a server can have newer names.
CREATE OR REPLACE FUNCTION jobs.is_known_time_zone(zone text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    PERFORM timezone(zone, timestamptz 'epoch');
    RETURN true;
EXCEPTION
    WHEN invalid_parameter_value THEN
        RETURN false;
END $$;
