-- Moves what was copied in to the tables of the tenant $1, and counts what was new.
WITH devices AS (
    INSERT INTO public.device_state (tenant_id, device_id)
    SELECT DISTINCT $1, device_id FROM jobs_import
    ON CONFLICT DO NOTHING
    RETURNING 1
), memberships AS (
    INSERT INTO public.device_group_members (tenant_id, group_id, device_id)
    SELECT DISTINCT $1, group_id, device_id FROM jobs_import WHERE group_id IS NOT NULL
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT (SELECT count(*) FROM devices) AS devices, (SELECT count(*) FROM memberships) AS memberships;
