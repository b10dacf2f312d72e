-- Returns a page of the events of a tenant, oldest first: those after p_after_position, or from
-- p_from_position. Examines at most 5,000 events.
--
-- Events without a status did not fit in the page, which has at most 8 MiB of details. The last row has no job_id:
-- its position is the one up to which the page is complete, unless the page has p_limit events or some did not
-- fit; has_more tells whether more events follow this position.
--
-- Raises EVENTS_PURGED and POSITION_UNKNOWN.
CREATE OR REPLACE FUNCTION jobs.list_events(
    p_tenant_id text,
    p_after_position bigint,  -- 0: from the oldest event; NULL: after the last one
    p_from_position bigint,   -- NULL: see p_after_position; of a time that has passed
    p_types text[],           -- NULL: all
    p_job_id text,            -- NULL: all
    p_limit integer
) RETURNS TABLE (
    "position" bigint,
    job_id text,
    type text,
    occurred_at timestamptz,
    status text,
    counts json,
    user_id text,
    details jsonb,
    has_more boolean
)
LANGUAGE plpgsql
-- settings: tenant, page
AS $$
#variable_conflict use_column
DECLARE
    v_max_examined CONSTANT integer := 5000;
    v_max_bytes CONSTANT integer := 8388608;  -- of details
    v_head bigint;
    v_after bigint;
    v_until bigint;
    v_purged bigint;
    v_count integer;
    v_is_queued boolean;
BEGIN
    v_head := jobs.sequence_events(p_tenant_id);

    IF p_from_position IS NOT NULL THEN
        v_after := p_from_position - 1;
    ELSIF p_after_position > v_head THEN
        PERFORM jobs.raise_error(
            'POSITION_UNKNOWN', '',
            jsonb_build_object('position', p_after_position, 'last_position', v_head)
        );
    ELSIF p_after_position = 0 THEN
        -- With the lock, no event after this position is purged until this call ends.
        SELECT h.purged_position INTO v_after
        FROM jobs.event_heads h
        WHERE h.tenant_id = p_tenant_id
        FOR SHARE;
    ELSE
        v_after := coalesce(p_after_position, v_head);
    END IF;

    -- Events that are sequenced from now on belong to the next page.
    v_until := v_head;

    RETURN QUERY
    SELECT e.position, e.job_id, e.type, e.occurred_at,
           CASE WHEN e.bytes_before < v_max_bytes THEN e.status END, e.counts, e.user_id,
           CASE WHEN e.bytes_before < v_max_bytes THEN e.details END, NULL::boolean
    FROM (
        SELECT e.*,
               coalesce(sum(octet_length(e.details::text))
                   OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before
        FROM jobs.event_page(
            p_tenant_id, p_job_id, v_after, v_head, p_types, v_max_examined, false, p_limit
        ) e
    ) e;

    GET DIAGNOSTICS v_count = ROW_COUNT;
    IF p_types IS NOT NULL AND v_count < p_limit THEN
        -- The position of the last examined event.
        IF p_job_id IS NULL THEN
            SELECT e.position INTO v_until
            FROM jobs.events e
            WHERE e.tenant_id = p_tenant_id AND e.position > v_after AND e.position <= v_head
            ORDER BY e.position
            LIMIT 1 OFFSET v_max_examined - 1;
        ELSE
            SELECT e.position INTO v_until
            FROM jobs.events e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.position > v_after
              AND e.position <= v_head
            ORDER BY e.position
            LIMIT 1 OFFSET v_max_examined - 1;
        END IF;
        v_until := coalesce(v_until, v_head);
    END IF;

    -- Read after the events: a purge that removed some of them has also moved this position.
    SELECT h.purged_position INTO v_purged FROM jobs.event_heads h WHERE h.tenant_id = p_tenant_id;
    IF v_purged > v_after THEN
        PERFORM jobs.raise_error(
            'EVENTS_PURGED', '',
            jsonb_build_object('position', v_after, 'purged_position', v_purged)
        );
    END IF;

    -- The next call sequences these.
    PERFORM FROM jobs.event_queue q WHERE q.tenant_id = p_tenant_id LIMIT 1;
    v_is_queued := FOUND;
    RETURN QUERY
    SELECT v_until, NULL::text, NULL::text, NULL::timestamptz, NULL::text, NULL::json, NULL::text,
           NULL::jsonb, v_until < v_head OR v_is_queued;
END $$;
