-- Returns a hash of a text, or of NULL, with 60 bits: Python hashes such a number to itself.
CREATE OR REPLACE FUNCTION jobs.text_fingerprint(value text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(coalesce(value, ''), 0) & 1152921504606846975;  -- 2^60 - 1
