-- Returns the id of the master key of a webhook's previous secret, or NULL a day after the rotation, when deliveries
-- are no longer signed with it.
CREATE OR REPLACE FUNCTION jobs.previous_key_id(p_webhook jobs.webhooks, p_now timestamptz)
RETURNS text
LANGUAGE plpgsql
AS $$
BEGIN
    IF p_webhook.rotated_at > p_now - interval '1 day' THEN
        RETURN p_webhook.previous_key_id;
    END IF;
    RETURN NULL;
END $$;
