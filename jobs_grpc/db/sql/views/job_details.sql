-- depends on: job_states, rollout_details
-- Jobs as readers see them, with the rollout and the failure criteria.
CREATE OR REPLACE VIEW jobs.job_details WITH (security_invoker = true) AS
SELECT
    s.*,
    CASE
        WHEN s.has_rollout_details THEN jobs.rollout_details(s.tenant_id, s.job_id)
    END AS rollout_details
FROM jobs.job_states s;
