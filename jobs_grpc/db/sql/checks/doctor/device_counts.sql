-- The tenants whose stored number of devices is wrong: at most 20. Needs the owner, who sees all tenants.
SELECT c.tenant_id, quote_literal(c.tenant_id) AS tenant_literal, c.device_count AS stored,
    coalesce(d.device_count, 0) AS counted
FROM jobs.device_counts c
LEFT JOIN (
    SELECT s.tenant_id, count(*) AS device_count FROM public.device_state s GROUP BY s.tenant_id
) d ON d.tenant_id = c.tenant_id COLLATE "C"
WHERE c.device_count <> coalesce(d.device_count, 0)
ORDER BY c.tenant_id
LIMIT 20
