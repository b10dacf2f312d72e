-- Counts the jobs that wait for an operator, and those that failure criteria canceled in the last
-- hour: at most p_limit of each kind. The caller must see the rows of all tenants.
CREATE OR REPLACE FUNCTION jobs.stopped_rollouts(
    p_limit integer,
    OUT failure_criterion bigint,  -- paused by a failure criterion
    OUT gate_not_met bigint,       -- paused because a gate was not met
    OUT joins bigint,              -- paused by the join brake
    OUT operator bigint,           -- paused by an operator, or by a rejection
    OUT awaiting_approval bigint,  -- of a stage, or of a start that is due within a day
    OUT canceled bigint
)
LANGUAGE plpgsql STABLE
-- Only the indexes jobs_waiting_by_pause_cause and jobs_tripped_by_canceled_at deliver the orders.
-- settings: page
AS $$
#variable_conflict use_column
BEGIN
    SELECT count(*) FILTER (WHERE waiting.pause_cause = 'FAILURE_CRITERION'),
           count(*) FILTER (WHERE waiting.pause_cause = 'GATE_NOT_MET'),
           count(*) FILTER (WHERE waiting.pause_cause = 'JOINS'),
           count(*) FILTER (WHERE waiting.pause_cause IN ('OPERATOR', 'STAGE_REJECTED')),
           count(*) FILTER (
               WHERE waiting.awaiting_approval
                  OR waiting.start_approval = '{}'
                     AND coalesce(waiting.start_at < jobs.now() + interval '1 day', true)
           )
    INTO failure_criterion, gate_not_met, joins, operator, awaiting_approval
    FROM (
        SELECT j.pause_cause, j.awaiting_approval, j.start_approval, j.start_at
        FROM jobs.jobs j
        WHERE (j.awaiting_approval OR j.pause_cause IS NOT NULL) AND j.status = 'IN_PROGRESS'
          AND j.deleted_at IS NULL
        ORDER BY j.pause_cause
        LIMIT p_limit
    ) waiting;

    -- A job that a criterion paused and an operator then canceled does not count.
    SELECT count(*) FILTER (WHERE tripped.action <> 'PAUSE')
    INTO canceled
    FROM (
        SELECT j.trip #>> '{criterion,action}' AS action
        FROM jobs.jobs j
        WHERE j.trip IS NOT NULL AND j.status = 'CANCELED' AND j.deleted_at IS NULL
          AND j.canceled_at > jobs.now() - interval '1 hour'
        ORDER BY j.canceled_at
        LIMIT p_limit
    ) tripped;
END $$;
