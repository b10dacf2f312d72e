-- Merges the imported labels and time zones into those of the tenant $1. Of several lines of a device,
-- the last value counts. Returns a row for each device that is new or changed.
INSERT INTO jobs.devices AS d (tenant_id, device_id, labels, time_zone)
SELECT $1, i.device_id,
       CASE
           WHEN cardinality(i.labels) = 1 THEN i.labels[1]
           ELSE coalesce((
               SELECT jsonb_object_agg(l.key, l.value ORDER BY a.n)
               FROM unnest(i.labels) WITH ORDINALITY AS a (labels, n)
               CROSS JOIN LATERAL jsonb_each(a.labels) AS l (key, value)
           ), '{}')
       END,
       i.time_zones[1]
FROM (
    SELECT i.device_id,
           array_agg(i.labels ORDER BY i.line) FILTER (WHERE i.labels IS NOT NULL) AS labels,
           array_agg(i.time_zone ORDER BY i.line DESC) FILTER (WHERE i.time_zone IS NOT NULL)
               AS time_zones
    FROM jobs_import i
    WHERE i.labels IS NOT NULL OR i.time_zone IS NOT NULL
    GROUP BY i.device_id
) i
ORDER BY i.device_id COLLATE "C"
ON CONFLICT (tenant_id, device_id) DO UPDATE
SET labels = d.labels || excluded.labels, time_zone = coalesce(excluded.time_zone, d.time_zone)
WHERE d.labels || excluded.labels <> d.labels
   OR coalesce(excluded.time_zone, d.time_zone) IS DISTINCT FROM d.time_zone
RETURNING true
