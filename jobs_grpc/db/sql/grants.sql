-- Grants the request role what serving calls needs; {role} is its quoted name.
GRANT USAGE ON SCHEMA jobs TO {role};
GRANT SELECT ON jobs.migrations, jobs.schema_code, jobs.device_tables TO {role};
GRANT SELECT ON
    jobs.execution_page, jobs.execution_states, jobs.job_details, jobs.job_fingerprints, jobs.job_page,
    jobs.job_states, jobs.jobs_with_release, jobs.pending_executions TO {role};
GRANT SELECT, INSERT, UPDATE ON
    jobs.jobs, jobs.job_progress, jobs.job_executions, jobs.job_failures, jobs.job_stages,
    jobs.job_failure_criteria, jobs.job_criterion_counts TO {role};
-- UpdateJob replaces criteria.
GRANT DELETE ON jobs.job_failure_criteria, jobs.job_criterion_counts TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON
    jobs.devices, jobs.device_facts, jobs.continuous_jobs TO {role};
GRANT SELECT, INSERT, DELETE ON jobs.device_changes TO {role};
GRANT SELECT, INSERT ON jobs.execution_attempts TO {role};
GRANT SELECT, INSERT, DELETE ON jobs.job_labels TO {role};
-- Calls that read events also sequence queued events.
GRANT SELECT, INSERT, DELETE ON jobs.event_queue TO {role};
GRANT SELECT, INSERT ON jobs.events TO {role};
GRANT SELECT, INSERT, UPDATE ON jobs.event_heads TO {role};
GRANT SELECT, INSERT, UPDATE ON jobs.device_counts TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON jobs.webhooks TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA jobs TO {role};
