-- Copies the jobs of this service back to the tables of the platform, and ends the freeze of
-- copy_jobs.sql. Run it in one transaction, as a login that owns the tables of both, while no server
-- of this service serves calls: see docs/migration.md.
--
-- Jobs that were created, changed or carried out since the copy are written with the statuses that
-- readers see. What the platform can't store is simplified: PAUSED and SCHEDULED become IN_PROGRESS, and
-- HELD becomes QUEUED. Jobs for a selector, a list of devices or the failures of another job have no target:
-- their executions name the devices. Jobs that were deleted since the copy stay in the tables of the platform.

SET LOCAL row_security = off;
DROP TRIGGER moved_to_jobs_grpc ON public.jobs;
DROP TRIGGER moved_to_jobs_grpc ON public.job_executions;
DROP FUNCTION jobs.refuse_write_after_copy();

DO $$
DECLARE
    v_tenant_id text;
BEGIN
    -- On Citus, the views can't be read across tenants.
    FOR v_tenant_id IN SELECT DISTINCT j.tenant_id FROM jobs.jobs j LOOP
        INSERT INTO public.jobs AS p
            (tenant_id, job_id, document_type, document_params, target_device_id, target_group_id,
             target_all, status, expires_at, created_by, created_at, updated_at)
        SELECT j.tenant_id, j.job_id, j.document_type, j.document_params, j.target_device_id,
               j.target_group_id, j.target_all,
               CASE WHEN j.status IN ('PAUSED', 'SCHEDULED') THEN 'IN_PROGRESS' ELSE j.status END,
               j.expires_at, j.created_by, j.created_at, j.updated_at
        FROM jobs.job_states j
        WHERE j.tenant_id = v_tenant_id
        ON CONFLICT (tenant_id, job_id) DO UPDATE
        SET status = excluded.status, expires_at = excluded.expires_at,
            updated_at = excluded.updated_at;

        INSERT INTO public.job_executions AS p
            (tenant_id, job_id, device_id, status, status_details, execution_number, queued_at,
             started_at, last_updated_at)
        SELECT e.tenant_id, e.job_id, e.device_id, replace(e.status, 'HELD', 'QUEUED'),
               e.status_details, e.execution_number, e.queued_at, e.started_at, e.last_updated_at
        FROM jobs.execution_states e
        WHERE e.tenant_id = v_tenant_id
        ON CONFLICT (tenant_id, job_id, device_id) DO UPDATE
        SET status = excluded.status, status_details = excluded.status_details,
            execution_number = excluded.execution_number, queued_at = excluded.queued_at,
            started_at = excluded.started_at, last_updated_at = excluded.last_updated_at;
    END LOOP;
END $$;
