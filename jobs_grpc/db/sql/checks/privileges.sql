-- Finds table privileges that the request role lacks. Returns the SQL that grants them. `migrate`
-- grants them where it has the right to; the device tables can belong to another role.
SELECT format('GRANT %s ON %s TO %I', privilege, name, current_user) AS remedy
FROM (VALUES
    ('jobs.jobs', 'SELECT'), ('jobs.jobs', 'INSERT'), ('jobs.jobs', 'UPDATE'),
    ('jobs.job_progress', 'SELECT'), ('jobs.job_progress', 'INSERT'),
    ('jobs.job_progress', 'UPDATE'),
    ('jobs.job_executions', 'SELECT'), ('jobs.job_executions', 'INSERT'),
    ('jobs.job_executions', 'UPDATE'),
    ('jobs.execution_attempts', 'SELECT'), ('jobs.execution_attempts', 'INSERT'),
    ('jobs.job_failures', 'SELECT'), ('jobs.job_failures', 'INSERT'),
    ('jobs.job_failures', 'UPDATE'),
    ('jobs.job_stages', 'SELECT'), ('jobs.job_stages', 'INSERT'), ('jobs.job_stages', 'UPDATE'),
    ('jobs.job_failure_criteria', 'SELECT'), ('jobs.job_failure_criteria', 'INSERT'),
    ('jobs.job_failure_criteria', 'UPDATE'), ('jobs.job_failure_criteria', 'DELETE'),
    ('jobs.job_criterion_counts', 'SELECT'), ('jobs.job_criterion_counts', 'INSERT'),
    ('jobs.job_criterion_counts', 'UPDATE'), ('jobs.job_criterion_counts', 'DELETE'),
    ('jobs.job_labels', 'SELECT'), ('jobs.job_labels', 'INSERT'), ('jobs.job_labels', 'DELETE'),
    ('jobs.devices', 'SELECT'), ('jobs.devices', 'INSERT'), ('jobs.devices', 'UPDATE'),
    ('jobs.devices', 'DELETE'),
    ('jobs.execution_states', 'SELECT'), ('jobs.job_details', 'SELECT'),
    ('jobs.job_fingerprints', 'SELECT'), ('jobs.job_states', 'SELECT'),
    ('jobs.pending_executions', 'SELECT'),
    ('jobs.device_tables', 'SELECT'),
    ('public.device_state', 'SELECT'), ('public.device_group_members', 'SELECT')
) AS needed (name, privilege)
WHERE NOT has_table_privilege(name, privilege)
