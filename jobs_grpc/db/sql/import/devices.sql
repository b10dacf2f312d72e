-- Adds the imported devices to the tenant $1. Returns a row for each that is new.
INSERT INTO public.device_state (tenant_id, device_id)
SELECT DISTINCT $1, device_id FROM jobs_import
ON CONFLICT DO NOTHING
RETURNING true
