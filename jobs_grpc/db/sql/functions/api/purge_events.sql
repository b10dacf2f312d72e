-- depends on: event_page
-- Removes events of a tenant, about p_limit: the oldest ones beyond p_max_events, or else those older than p_days.
-- Returns whether more can be removed.
--
-- Events that leave the stream stay for the histories of jobs that still exist: purge_job removes them. Beyond
-- p_max_events, executions.finished events are removed, also from histories; other events of existing jobs only if
-- the oldest events, 10 × p_limit or half of p_max_events, have no executions.finished. So a job with many of these
-- does not evict the histories of the others, and histories leave room for the stream.
--
-- Moves purged_position to the last event that is no longer part of the stream, not to the time limit: so a
-- reader that has read all events can continue at any later time.
CREATE OR REPLACE FUNCTION jobs.purge_events(
    p_tenant_id text, p_days integer, p_max_events bigint, p_limit integer
) RETURNS boolean
LANGUAGE plpgsql
-- settings: index, custom plan, no jit
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
    v_starts bigint[];
    v_positions bigint[];
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    -- If another session sequences or purges, the next run tries again.
    SELECT h.purged_position, h.event_count - p_max_events INTO v_purged, v_excess
    FROM jobs.event_heads h
    WHERE h.tenant_id = p_tenant_id
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;

    IF v_excess > 0 THEN
        v_excess := least(v_excess, p_limit);
        SELECT coalesce(array_agg(e.position), '{}'), max(e.position) INTO v_finished, v_until
        FROM jobs.event_page(
            p_tenant_id, NULL, -1, 9007199254740991, '{executions.finished}',
            least(10 * p_limit, p_max_events / 2)::integer, false, v_excess::integer
        ) e;
        IF v_finished = '{}' THEN
            SELECT e.position INTO v_last
            FROM jobs.events e
            WHERE e.tenant_id = p_tenant_id
            ORDER BY e.position
            LIMIT 1 OFFSET v_excess - 1;
            DELETE FROM jobs.events e WHERE e.tenant_id = p_tenant_id AND e.position <= v_last;
            GET DIAGNOSTICS v_count = ROW_COUNT;
            UPDATE jobs.event_heads h
            SET purged_position = greatest(v_purged, v_last), event_count = h.event_count - v_count
            WHERE h.tenant_id = p_tenant_id;
            RETURN v_count = v_excess;
        END IF;
    END IF;

    -- The next events that leave the stream.
    SELECT max(e.position), count(*) INTO v_last, v_count
    FROM (
        SELECT e.position
        FROM jobs.events e
        WHERE e.tenant_id = p_tenant_id AND e.position > v_purged AND e.position <= v_until
        ORDER BY e.position
        LIMIT p_limit
    ) e;
    IF v_last IS NULL AND v_finished = '{}' THEN
        RETURN false;
    END IF;
    v_last := coalesce(v_last, v_purged);

    -- The positions at which the histories of the jobs begin; for a job that does not exist, larger than any.
    SELECT array_agg(d.job_id),
           array_agg(CASE WHEN j.job_id IS NULL THEN 9007199254740992
                          ELSE coalesce(c.position, 0) END)
    INTO v_job_ids, v_starts
    FROM (
        SELECT DISTINCT e.job_id
        FROM jobs.events e
        WHERE e.tenant_id = p_tenant_id AND e.position > v_purged AND e.position <= v_last
    ) d
    LEFT JOIN LATERAL (
        SELECT j.job_id
        FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = d.job_id
        OFFSET 0
    ) j ON true
    LEFT JOIN LATERAL (
        SELECT e.position
        FROM jobs.events e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = d.job_id AND e.type = 'job.created'
        ORDER BY e.position DESC
        LIMIT 1
    ) c ON true;

    SELECT coalesce(array_agg(e.position), '{}') INTO v_positions
    FROM unnest(v_job_ids, v_starts) AS k (job_id, start)
    CROSS JOIN LATERAL (
        SELECT e.position
        FROM jobs.events e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = k.job_id AND e.position > v_purged
          AND e.position <= v_last AND e.position < k.start
        OFFSET 0
    ) e;
    v_positions := v_positions || ARRAY(SELECT f FROM unnest(v_finished) AS f WHERE f <= v_last);
    DELETE FROM jobs.events e WHERE e.tenant_id = p_tenant_id AND e.position = ANY (v_positions);
    GET DIAGNOSTICS v_removed = ROW_COUNT;
    UPDATE jobs.event_heads h
    SET purged_position = v_last, event_count = h.event_count - v_removed
    WHERE h.tenant_id = p_tenant_id;
    RETURN v_excess > 0 OR v_count = p_limit;
END $$;
