-- Counts the retrying executions that have not started the next attempt, of the p_limit jobs with the most
-- retrying executions. The caller must see the rows of all tenants.
CREATE OR REPLACE FUNCTION jobs.count_retrying_executions(p_limit integer) RETURNS bigint
LANGUAGE plpgsql STABLE
-- Only the index job_progress_by_retrying delivers the order.
-- settings: page
AS $$
BEGIN
    RETURN (
        SELECT coalesce(sum(waiting.executions), 0)
        FROM (
            SELECT p.retrying - p.retrying_in_progress AS executions
            FROM jobs.job_progress p
            WHERE p.retrying > 0
            ORDER BY p.retrying DESC
            LIMIT p_limit
        ) waiting
    );
END $$;
