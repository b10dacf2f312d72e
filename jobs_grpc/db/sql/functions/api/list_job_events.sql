-- Returns a page of the events of a job, oldest or newest first: those after p_last_position in this order. The
-- history begins with the creation of the job, because an earlier job may have had the same job_id.
--
-- Events without a status did not fit in the page, which has at most 8 MiB of details. The last row has no job_id: its
-- position is where the history begins. With p_types, the page examines at most 5,000 events.
--
-- Raises JOB_NOT_FOUND if the job does not exist and none of its events is left.
CREATE OR REPLACE FUNCTION jobs.list_job_events(
    p_tenant_id text, p_job_id text,
    p_newest_first boolean,
    p_last_position bigint,  -- of the previous page; NULL: the first page
    p_limit integer,
    p_types text[] DEFAULT NULL  -- NULL: all
) RETURNS TABLE (
    "position" bigint,
    job_id text,
    type text,
    occurred_at timestamptz,
    status text,
    counts json,
    user_id text,
    details jsonb,
    last_examined bigint     -- in the last row: the next page begins after it; NULL: all events were examined
)
LANGUAGE plpgsql
-- settings: tenant, page
AS $$
#variable_conflict use_column
DECLARE
    v_max_examined CONSTANT integer := 5000;
    v_max_bytes CONSTANT integer := 8388608;  -- of details
    v_start bigint;
    v_last_examined bigint;
    v_after bigint;
    v_until bigint := 9007199254740991;
BEGIN
    PERFORM jobs.sequence_events(p_tenant_id);

    SELECT e.position INTO v_start
    FROM jobs.events e
    WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.type = 'job.created'
    ORDER BY e.position DESC
    LIMIT 1;
    v_start := coalesce(v_start, 0);
    v_after := v_start - 1;
    IF p_newest_first THEN
        v_until := coalesce(p_last_position - 1, v_until);
    ELSE
        v_after := greatest(v_after, p_last_position);
    END IF;

    -- Found before the page, which then ends there, whatever is added or purged meanwhile.
    IF p_types IS NOT NULL AND p_newest_first THEN
        SELECT e.position INTO v_last_examined
        FROM jobs.events e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.position > v_after
          AND e.position <= v_until
        ORDER BY e.position DESC
        LIMIT 1 OFFSET v_max_examined - 1;
        v_after := coalesce(v_last_examined - 1, v_after);
    ELSIF p_types IS NOT NULL THEN
        SELECT e.position INTO v_last_examined
        FROM jobs.events e
        WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id AND e.position > v_after
          AND e.position <= v_until
        ORDER BY e.position
        LIMIT 1 OFFSET v_max_examined - 1;
        v_until := coalesce(v_last_examined, v_until);
    END IF;

    RETURN QUERY
    SELECT e.position, e.job_id, e.type, e.occurred_at,
           CASE WHEN e.bytes_before < v_max_bytes THEN e.status END, e.counts, e.user_id,
           CASE WHEN e.bytes_before < v_max_bytes THEN e.details END, NULL::bigint
    FROM (
        SELECT e.*,
               coalesce(sum(octet_length(e.details::text))
                   OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before
        FROM jobs.event_page(
            p_tenant_id, p_job_id, v_after, v_until, p_types,
            CASE WHEN p_types IS NULL THEN p_limit ELSE v_max_examined END, p_newest_first, p_limit
        ) e
    ) e;
    IF NOT FOUND AND p_last_position IS NULL THEN
        PERFORM FROM jobs.jobs j
        WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id AND j.deleted_at IS NULL;
        IF NOT FOUND AND p_types IS NOT NULL THEN
            PERFORM FROM jobs.events e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = p_job_id
            LIMIT 1;
        END IF;
        IF NOT FOUND THEN
            PERFORM jobs.raise_error('JOB_NOT_FOUND');
        END IF;
    END IF;

    RETURN QUERY
    SELECT v_start, NULL::text, NULL::text, NULL::timestamptz, NULL::text, NULL::json, NULL::text,
           NULL::jsonb, v_last_examined;
END $$;
