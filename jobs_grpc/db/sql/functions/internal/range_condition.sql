-- Returns the condition, with AND before it, that a device_id is in a range, as SQL. '': there is no range.
CREATE OR REPLACE FUNCTION jobs.range_condition(
    p_device_id text,  -- the SQL of the device_id, with the collation "C"
    p_range jsonb      -- after the first element, and up to the second one; the second is null: to the end
) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN p_range IS NULL THEN '' ELSE format(' AND %s > %L', p_device_id, p_range ->> 0) END
    || CASE WHEN p_range ->> 1 IS NULL THEN '' ELSE format(' AND %s <= %L', p_device_id, p_range ->> 1) END;
