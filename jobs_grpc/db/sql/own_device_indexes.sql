-- The groups of a device. Only in own device tables: `jobs-grpc doctor` prints it for the platform's.
CREATE INDEX CONCURRENTLY IF NOT EXISTS device_group_members_by_device
    ON public.device_group_members (tenant_id, device_id);
