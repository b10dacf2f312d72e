-- Adds the verification of URLs of webhooks, and what the limit of replays needs: see claim_webhook.
ALTER TABLE jobs.webhooks
    -- When the URL first answered a delivery or a test event with a 2xx status. NULL: not yet. Until then, only test
    -- events are sent.
    ADD COLUMN verified_at timestamptz,
    -- update_webhook has moved the cursor back from here: events up to this position are replays.
    ADD COLUMN replay_position bigint NOT NULL DEFAULT 0;
UPDATE jobs.webhooks SET verified_at = last_success_at;
