-- Adds the imported group memberships to the tenant $1. Returns a row for each that is new.
INSERT INTO public.device_group_members (tenant_id, group_id, device_id)
SELECT DISTINCT $1, group_id, device_id FROM jobs_import WHERE group_id IS NOT NULL
ON CONFLICT DO NOTHING
RETURNING true
