"""The tables with rows of tenants."""

TENANT_TABLES = (
    "jobs.jobs",
    "jobs.job_progress",
    "jobs.job_executions",
    "jobs.execution_attempts",
    "jobs.job_failures",
    "jobs.job_stages",
    "jobs.job_failure_criteria",
    "jobs.job_criterion_counts",
    "jobs.job_labels",
    "jobs.devices",
    "jobs.device_facts",
    "jobs.device_counts",
    "jobs.event_queue",
    "jobs.events",
    "jobs.event_heads",
    "jobs.webhooks",
    "jobs.continuous_jobs",
    "jobs.device_changes",
    "public.device_state",
    "public.device_group_members",
)
"""The tables with a tenant_id. Each must have row-level security."""
