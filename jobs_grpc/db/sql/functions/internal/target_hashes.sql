-- Returns the two hashes of a device and the stage that claims it, for target_digest. hashtextextended
-- returns the same on all machines with the same byte order.
CREATE OR REPLACE FUNCTION jobs.target_hashes(
    device_id text,
    claim integer  -- the number of the stage, from 1; NULL: none
) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY[
    hashtextextended(device_id COLLATE "C", coalesce(claim, 0)),
    hashtextextended(device_id COLLATE "C", coalesce(claim, 0) + 1000)
];
