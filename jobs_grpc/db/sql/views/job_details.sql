-- Jobs as readers see them, with the rollout and the failure criteria.
--
-- Its own column comes first: CREATE OR REPLACE VIEW adds columns only at the end, as job_states does.
CREATE OR REPLACE VIEW jobs.job_details WITH (security_invoker = true) AS
SELECT
    CASE
        WHEN s.has_rollout_details THEN jobs.rollout_details(s.tenant_id, s.job_id)
    END AS rollout_details,
    s.*
FROM jobs.job_states s;
