-- outside a transaction, after views and functions
-- jobs_newest_first_awaiting_approval replaces it.
DROP INDEX CONCURRENTLY IF EXISTS jobs.jobs_awaiting_approval;
