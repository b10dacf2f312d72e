-- Adds the imported devices to the tenant $1. Returns those that are new.
INSERT INTO public.device_state (tenant_id, device_id)
SELECT $1, device_id FROM jobs_import
GROUP BY device_id
ORDER BY device_id COLLATE "C"  -- as calls register them, so that the locks can't deadlock
ON CONFLICT DO NOTHING
RETURNING device_id
