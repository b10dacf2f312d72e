-- Returns the first notes of changed devices, the devices that they name, and the continuous jobs of the tenant. The
-- caller lets the devices join these jobs, and then deletes the notes by delete_device_changes. A change that is
-- committed later has a note of its own.
--
-- Returns NULL if the tenant has no note, or if a full scan replaces the notes: one note is for all devices, the notes
-- name more than p_max_changes devices, or the tenant has no continuous job. Then deletes up to p_max_changes notes;
-- the next call deletes the rest.
CREATE OR REPLACE FUNCTION jobs.read_device_changes(
    p_tenant_id text,
    p_limit integer,        -- of notes. A note is left out if those before it name this many devices.
    p_max_changes integer,  -- see above
    OUT noted_at timestamptz[],  -- parallel to change_ids
    OUT change_ids uuid[],
    OUT device_ids text[],       -- without duplicates
    OUT job_ids text[]
)
LANGUAGE plpgsql
-- settings: tenant, page
AS $$
#variable_conflict use_column
DECLARE
    v_is_all boolean;       -- a note is for all devices
    v_is_too_many boolean;
BEGIN
    SELECT array_agg(c.noted_at), array_agg(c.change_id), bool_or(c.is_all)
    INTO noted_at, change_ids, v_is_all
    FROM (
        SELECT c.noted_at, c.change_id, c.is_all,
               sum(c.device_count) OVER (ORDER BY c.noted_at, c.change_id) - c.device_count AS devices_before
        FROM (
            SELECT c.noted_at, c.change_id, c.device_count, c.device_ids IS NULL AS is_all
            FROM jobs.device_changes c
            WHERE c.tenant_id = p_tenant_id
            ORDER BY c.noted_at, c.change_id
            LIMIT p_limit
        ) c
    ) c
    WHERE c.devices_before < p_limit;
    IF change_ids IS NULL THEN
        RETURN;
    END IF;
    job_ids := ARRAY(
        SELECT c.job_id FROM jobs.continuous_jobs c WHERE c.tenant_id = p_tenant_id ORDER BY c.job_id
    );
    SELECT sum(c.device_count) > p_max_changes INTO v_is_too_many
    FROM (
        SELECT c.device_count FROM jobs.device_changes c WHERE c.tenant_id = p_tenant_id LIMIT p_max_changes + 1
    ) c;
    IF job_ids <> '{}' AND NOT v_is_all AND NOT v_is_too_many THEN
        device_ids := ARRAY(
            SELECT DISTINCT d.device_id COLLATE "C"
            FROM unnest(noted_at, change_ids) AS u (noted_at, change_id)
            CROSS JOIN LATERAL (
                SELECT c.device_ids
                FROM jobs.device_changes c
                WHERE c.tenant_id = p_tenant_id AND c.noted_at = u.noted_at AND c.change_id = u.change_id
                OFFSET 0
            ) c
            CROSS JOIN LATERAL unnest(c.device_ids) AS d (device_id)
        );
        RETURN;
    END IF;

    SELECT array_agg(c.noted_at), array_agg(c.change_id) INTO noted_at, change_ids
    FROM (
        SELECT c.noted_at, c.change_id
        FROM jobs.device_changes c
        WHERE c.tenant_id = p_tenant_id
        ORDER BY c.noted_at, c.change_id
        LIMIT p_max_changes
    ) c;
    PERFORM jobs.delete_notes(p_tenant_id, noted_at, change_ids);
    PERFORM jobs.rescan_jobs(p_tenant_id, NULL);
    noted_at := NULL;
    change_ids := NULL;
    device_ids := NULL;
    job_ids := NULL;
END $$;
