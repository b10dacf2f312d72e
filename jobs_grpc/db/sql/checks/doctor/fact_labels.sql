-- Up to 6 labels of devices that begin with "fact.": selectors read such a key as that of a fact. Reads all labels:
-- the doctor cancels it after some seconds. Needs the owner, who sees all tenants.
SELECT d.tenant_id, d.device_id, l.key
FROM jobs.devices d
CROSS JOIN LATERAL jsonb_object_keys(d.labels) AS l (key)
WHERE starts_with(l.key, 'fact.')
LIMIT 6
