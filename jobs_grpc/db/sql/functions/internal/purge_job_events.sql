-- Removes up to p_limit events of a job that are no longer part of the stream, and returns whether none of them
-- is left, nor in the queue. purge_events removes the later ones. The caller purges the job, and holds its lock.
CREATE OR REPLACE FUNCTION jobs.purge_job_events(
    p_tenant_id text, p_job_id text, p_limit integer
) RETURNS boolean
LANGUAGE plpgsql
-- settings: index, custom plan, no jit
AS $$
DECLARE
    v_purged bigint;
    v_positions bigint[];
BEGIN
    -- The queue must have no events of this job, because a later job with its job_id starts at number 1 again.
    PERFORM FROM jobs.event_queue q
    WHERE q.tenant_id = p_tenant_id AND q.job_id = p_job_id
    LIMIT 1;
    IF FOUND THEN
        PERFORM jobs.sequence_events(p_tenant_id);
        PERFORM FROM jobs.event_queue q
        WHERE q.tenant_id = p_tenant_id AND q.job_id = p_job_id
        LIMIT 1;
        IF FOUND THEN
            RETURN false;
        END IF;
    END IF;

    PERFORM jobs.lock_event_head(p_tenant_id);
    SELECT h.purged_position INTO v_purged FROM jobs.event_heads h WHERE h.tenant_id = p_tenant_id;
    SELECT coalesce(array_agg(e.position), '{}') INTO v_positions
    FROM (
        SELECT e.position
        FROM jobs.events e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.position <= v_purged
        ORDER BY e.position
        LIMIT p_limit
    ) e;
    IF v_positions <> '{}' THEN
        DELETE FROM jobs.events e WHERE e.tenant_id = p_tenant_id AND e.position = ANY (v_positions);
        UPDATE jobs.event_heads h
        SET event_count = h.event_count - cardinality(v_positions)
        WHERE h.tenant_id = p_tenant_id;
    END IF;
    RETURN cardinality(v_positions) < p_limit;
END $$;
