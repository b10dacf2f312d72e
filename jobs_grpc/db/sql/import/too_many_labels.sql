-- Returns up to 20 devices of the tenant $1 that have more than 32 labels.
SELECT d.device_id
FROM jobs.devices d
WHERE d.tenant_id = $1 AND (SELECT count(*) FROM jsonb_object_keys(d.labels)) > 32
ORDER BY d.device_id
LIMIT 20
