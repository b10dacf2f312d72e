-- Returns the labels of the tenant's devices with their values, and its groups: what a selector can name.
-- Reads at most p_max_devices rows of jobs.devices, the first by device_id, p_max_pairs of their labels, and about
-- p_max_devices group memberships.
CREATE OR REPLACE FUNCTION jobs.list_labels(
    p_tenant_id text,
    p_max_devices integer,
    p_max_pairs integer,
    p_max_labels integer,
    p_max_values integer,  -- of each label
    p_max_groups integer,
    OUT labels jsonb,      -- LabelSummary of fleet.proto
    OUT groups jsonb,      -- Group of fleet.proto
    OUT complete boolean
)
LANGUAGE plpgsql STABLE
-- settings: tenant, page
AS $$
#variable_conflict use_column
DECLARE
    v_are_groups_complete boolean;
BEGIN
    WITH listed AS MATERIALIZED (
        SELECT l.key, l.value
        FROM (
            SELECT d.labels
            FROM jobs.devices d
            WHERE d.tenant_id = p_tenant_id
            ORDER BY d.device_id
            LIMIT p_max_devices + 1
        ) d
        CROSS JOIN LATERAL jsonb_each_text(d.labels) AS l
        LIMIT p_max_pairs + 1
    ), pairs AS MATERIALIZED (
        SELECT l.key, l.value, count(*)::integer AS device_count,
               row_number() OVER (PARTITION BY l.key ORDER BY count(*) DESC, l.value) AS rank
        FROM listed l
        GROUP BY l.key, l.value
    ), keys AS MATERIALIZED (
        SELECT p.key, sum(p.device_count)::integer AS device_count,
               count(*) > p_max_values AS has_more_values,
               jsonb_agg(
                   jsonb_build_object('value', p.value, 'device_count', p.device_count)
                   ORDER BY p.rank
               ) FILTER (WHERE p.rank <= p_max_values) AS label_values,
               row_number() OVER (ORDER BY sum(p.device_count) DESC, p.key) AS rank
        FROM pairs p
        GROUP BY p.key
    )
    SELECT coalesce(
               jsonb_agg(
                   jsonb_build_object(
                       'key', k.key, 'device_count', k.device_count, 'values', k.label_values,
                       'has_more_values', k.has_more_values
                   )
                   ORDER BY k.rank
               ) FILTER (WHERE k.rank <= p_max_labels),
               '[]'
           ),
           count(*) <= p_max_labels AND (SELECT count(*) <= p_max_pairs FROM listed)
           AND (
               SELECT count(*) <= p_max_devices
               FROM (
                   SELECT
                   FROM jobs.devices d
                   WHERE d.tenant_id = p_tenant_id
                   LIMIT p_max_devices + 1
               ) d
           )
    INTO labels, complete
    FROM keys k;

    SELECT coalesce(
               jsonb_agg(
                   jsonb_build_object('group_id', g.group_id, 'device_count', g.device_count)
                   ORDER BY g.group_id
               ) FILTER (WHERE g.device_count IS NOT NULL),
               '[]'
           ),
           count(*) = count(g.device_count)
    INTO groups, v_are_groups_complete
    FROM jobs.counted_groups(p_tenant_id, '', '', p_max_groups, p_max_devices) g;
    complete := complete AND v_are_groups_complete;
END $$;
