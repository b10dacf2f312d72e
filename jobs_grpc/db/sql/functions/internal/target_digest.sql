-- Returns the digest of the devices of a job: their number, and the sums of their target_hashes. Their order
-- does not matter.
CREATE OR REPLACE FUNCTION jobs.target_digest(devices bigint, first_sum numeric, second_sum numeric)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN devices || (
    -- Modulo 2^63: 16 hexadecimal digits. mod of a negative number is negative.
    SELECT string_agg(
        '-' || lpad(to_hex(mod(mod(s.sum, s.modulus) + s.modulus, s.modulus)::bigint), 16, '0'), ''
        ORDER BY s.position
    )
    FROM (
        VALUES (1, coalesce(first_sum, 0), 9223372036854775808),
               (2, coalesce(second_sum, 0), 9223372036854775808)
    ) AS s (position, sum, modulus)
);
