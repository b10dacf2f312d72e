-- Returns the labels and groups of the tenant that a target without devices may have meant, and which of
-- the groups p_group_ids have no members. Reads at most 1,000 rows of jobs.devices, the first by device_id,
-- and only if p_label_keys is not empty; and, only if one of p_group_ids has no members, the first 1,000
-- groups. So the labels of other devices are unknown: see has_all_labels.
CREATE OR REPLACE FUNCTION jobs.target_names(
    p_tenant_id text,
    p_label_keys text[],
    p_labels text[],     -- as "key=value", of these keys
    p_group_ids text[],
    OUT has_all_labels boolean,  -- whether all devices with labels were read
    OUT label_keys text[],       -- those of p_label_keys that were found, and up to 1,000 others
    OUT labels text[],           -- of p_label_keys: those of p_labels that were found, and up to 1,000 others
    OUT empty_group_ids text[],  -- those of p_group_ids that have no members
    OUT group_ids text[]         -- the first 1,000 groups that have members
)
LANGUAGE plpgsql STABLE
-- The order of the groups needs COLLATE "C", because the tables of a platform can have another collation.
-- settings: tenant, page
AS $$
#variable_conflict use_column
DECLARE
    v_group_id text;
    v_next text := '';
BEGIN
    IF p_label_keys <> '{}' THEN
        WITH devices AS MATERIALIZED (
            SELECT d.labels
            FROM jobs.devices d
            WHERE d.tenant_id = p_tenant_id
            ORDER BY d.device_id
            LIMIT 1000
        ), pairs AS MATERIALIZED (
            SELECT DISTINCT l.key,
                   CASE WHEN l.key = ANY (p_label_keys) THEN l.key || '=' || l.value END AS label
            FROM devices d
            CROSS JOIN LATERAL jsonb_each_text(d.labels) AS l
        )
        SELECT (SELECT count(*) FROM devices) < 1000,
               ARRAY(
                   SELECT p.key FROM pairs p
                   GROUP BY p.key
                   ORDER BY p.key = ANY (p_label_keys) DESC
                   LIMIT 1000 + cardinality(p_label_keys)
               ),
               ARRAY(
                   SELECT p.label FROM pairs p
                   WHERE p.label IS NOT NULL
                   ORDER BY p.label = ANY (p_labels) DESC
                   LIMIT 1000 + cardinality(p_labels)
               )
        INTO has_all_labels, label_keys, labels;
    END IF;

    empty_group_ids := '{}';
    FOREACH v_group_id IN ARRAY p_group_ids LOOP
        IF NOT EXISTS (
            SELECT FROM public.device_group_members m
            WHERE m.tenant_id = p_tenant_id AND m.group_id = v_group_id
        ) THEN
            empty_group_ids := empty_group_ids || v_group_id;
        END IF;
    END LOOP;
    group_ids := '{}';
    IF empty_group_ids <> '{}' THEN
        FOR n IN 1..1000 LOOP
            -- One probe for each group, however many devices it has.
            SELECT m.group_id INTO v_group_id
            FROM public.device_group_members m
            WHERE m.tenant_id = p_tenant_id AND m.group_id COLLATE "C" >= v_next
            ORDER BY m.group_id COLLATE "C"
            LIMIT 1;
            EXIT WHEN NOT FOUND;
            group_ids := group_ids || v_group_id;
            -- In byte order, no text is between a name and the name with chr(1) appended.
            v_next := v_group_id || chr(1);
        END LOOP;
    END IF;
END $$;
