-- Removes events of a tenant, about p_limit: the oldest ones beyond p_max_events, or else those older than p_days.
-- Returns the position to continue after; NULL: nothing is left to remove.
--
-- Events that leave the stream stay for the histories of jobs that still exist: purge_job removes them. Beyond
-- p_max_events, it first removes executions.finished events among the oldest 5 × p_limit (at most half of
-- p_max_events), also from histories. Other events of existing jobs are removed only if there are none of these.
-- So a job with many of these does not evict the histories of the others, and histories leave room for the stream.
--
-- Moves purged_position to the last event that is no longer part of the stream, not to the time limit: so a
-- reader that has read all events can continue at any later time.
CREATE OR REPLACE FUNCTION jobs.purge_events(
    p_tenant_id text,
    p_days integer,
    p_max_events bigint,
    p_limit integer,
    -- As returned by the last call; 0: none. Scans need not pass the index entries of removed events again.
    p_after_position bigint DEFAULT 0
) RETURNS bigint
LANGUAGE plpgsql
-- settings: tenant, index, custom plan, no sort, no jit
AS $$
DECLARE
    v_until bigint := jobs.event_position(jobs.clock_time() - make_interval(days => p_days));
    v_purged bigint;
    v_excess bigint;
    v_finished bigint[] := '{}';  -- executions.finished events to remove
    v_last bigint;
    v_count integer;
    v_removed integer;
    v_job_ids text[];
    v_positions bigint[];
BEGIN
    -- If another session sequences or purges, the next run tries again.
    SELECT h.purged_position, h.event_count - p_max_events INTO v_purged, v_excess
    FROM jobs.event_heads h
    WHERE h.tenant_id = p_tenant_id
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    IF v_excess > 0 THEN
        v_excess := least(v_excess, p_limit);
        SELECT coalesce(array_agg(e.position), '{}'), max(e.position) INTO v_finished, v_until
        FROM (
            SELECT e.position
            FROM (
                SELECT e.position, e.type
                FROM jobs.events e
                WHERE e.tenant_id = p_tenant_id AND e.position > p_after_position
                ORDER BY e.position
                LIMIT least(5 * p_limit, p_max_events / 2)
            ) e
            WHERE e.type = 'executions.finished'
            LIMIT v_excess
        ) e;
        IF v_finished = '{}' THEN
            SELECT e.position INTO v_last
            FROM jobs.events e
            WHERE e.tenant_id = p_tenant_id AND e.position > p_after_position
            ORDER BY e.position
            LIMIT 1 OFFSET v_excess - 1;
            DELETE FROM jobs.events e
            WHERE e.tenant_id = p_tenant_id AND e.position > p_after_position AND e.position <= v_last;
            GET DIAGNOSTICS v_count = ROW_COUNT;
            UPDATE jobs.event_heads h
            SET purged_position = greatest(v_purged, v_last), event_count = h.event_count - v_count
            WHERE h.tenant_id = p_tenant_id;
            RETURN v_last;
        END IF;
    END IF;

    -- The next events that leave the stream.
    SELECT array_agg(e.position), array_agg(e.job_id), max(e.position)
    INTO v_positions, v_job_ids, v_last
    FROM (
        SELECT e.position, e.job_id
        FROM jobs.events e
        WHERE e.tenant_id = p_tenant_id AND e.position > v_purged AND e.position <= v_until
        ORDER BY e.position
        LIMIT p_limit
    ) e;
    v_count := coalesce(cardinality(v_positions), 0);
    IF v_count = 0 AND v_finished = '{}' THEN
        RETURN NULL;
    END IF;
    v_last := coalesce(v_last, v_purged);

    -- Those to remove: of jobs that do not exist, or before the history of the job begins.
    SELECT array_agg(e.position) INTO v_positions
    FROM unnest(v_positions, v_job_ids) AS e (position, job_id)
    JOIN (
        SELECT d.job_id, j.job_id IS NOT NULL AS is_kept, c.position AS start
        FROM (SELECT DISTINCT i.job_id FROM unnest(v_job_ids) AS i (job_id)) d
        LEFT JOIN LATERAL (
            SELECT j.job_id
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = d.job_id
            OFFSET 0
        ) j ON true
        LEFT JOIN LATERAL (
            SELECT e.position
            FROM jobs.events e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = j.job_id AND e.type = 'job.created'
            ORDER BY e.position DESC
            LIMIT 1
        ) c ON true
    ) k ON k.job_id = e.job_id
    WHERE NOT k.is_kept OR e.position < k.start;
    v_positions := v_positions || ARRAY(SELECT f FROM unnest(v_finished) AS f WHERE f <= v_last);
    DELETE FROM jobs.events e WHERE e.tenant_id = p_tenant_id AND e.position = ANY (v_positions);
    GET DIAGNOSTICS v_removed = ROW_COUNT;
    UPDATE jobs.event_heads h
    SET purged_position = v_last, event_count = h.event_count - v_removed
    WHERE h.tenant_id = p_tenant_id;
    RETURN CASE WHEN v_excess > 0 OR v_count = p_limit THEN p_after_position END;
END $$;
