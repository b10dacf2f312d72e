-- Assigns positions to queued events of a tenant, and returns the last position of the tenant. Moves a bounded
-- number of events, so more may be left. The caller has set the tenant, and must not take a job lock afterwards.
--
-- The events of a job get positions in the order of their numbers. Those of different jobs are ordered by time
-- in each batch.
-- Readers see an event only after its position is assigned, under the lock of the tenant's head. So an event
-- that becomes visible later has a larger position.
--
-- A position is the time in microseconds, or the next number if the clock is not ahead of the last one. So
-- positions also grow after the database is restored or the tenant is moved.
CREATE OR REPLACE FUNCTION jobs.sequence_events(
    p_tenant_id text,
    -- For background work: moves one batch only. Returns NULL if another session holds the lock of the head. It
    -- may be sequencing these events.
    p_skip_locked boolean DEFAULT false
) RETURNS bigint
LANGUAGE plpgsql
-- settings: lookup, hash join, no jit
AS $$
DECLARE
    v_max_events CONSTANT integer := 2000;    -- of a batch
    v_max_bytes CONSTANT integer := 1048576;  -- of details of a batch, as they are stored
    v_max_batches integer := CASE WHEN p_skip_locked THEN 1 ELSE 5 END;
    v_now timestamptz;
    v_head bigint;
    v_first_job_id text := '';
    v_last_job_id text;
    v_row_ids tid[];
    v_batch_types text[];
    v_types text[] := '{}';  -- of the events that got positions
    v_examined integer;
    v_count integer;
BEGIN
    -- If nothing is queued, nothing is locked. A missing head is inserted: with position 0, a reader could not
    -- detect later that events were purged.
    PERFORM FROM jobs.event_queue q WHERE q.tenant_id = p_tenant_id LIMIT 1;
    IF NOT FOUND THEN
        SELECT h.position INTO v_head FROM jobs.event_heads h WHERE h.tenant_id = p_tenant_id;
        IF FOUND THEN
            RETURN v_head;
        END IF;
    END IF;

    v_head := jobs.lock_event_head(p_tenant_id, p_skip_locked);
    IF v_head IS NULL THEN
        RETURN NULL;
    END IF;

    FOR i IN 1..v_max_batches LOOP
        -- Selected in the order of the key, so that a batch has no event of a job without the earlier ones.
        -- last_time is not earlier than that of an earlier event of the job: the clock can go back, and
        -- job.expired has the time of the expiry.
        SELECT array_agg(q.row_id ORDER BY q.last_time, q.job_id, q.number)
                   FILTER (WHERE q.bytes_before < v_max_bytes),
               max(q.job_id) FILTER (WHERE q.bytes_before < v_max_bytes),
               array_agg(DISTINCT q.type) FILTER (WHERE q.bytes_before < v_max_bytes), count(*)
        INTO v_row_ids, v_last_job_id, v_batch_types, v_examined
        FROM (
            SELECT q.row_id, q.job_id, q.number, q.type,
                   max(q.occurred_at) OVER (PARTITION BY q.job_id ORDER BY q.number) AS last_time,
                   sum(q.bytes) OVER (ORDER BY q.job_id, q.number) - q.bytes AS bytes_before
            FROM (
                -- pg_column_size does not read the values that are stored out of line.
                SELECT q.ctid AS row_id, q.job_id, q.number, q.type, q.occurred_at,
                       coalesce(pg_column_size(q.details), 0) AS bytes
                FROM jobs.event_queue q
                WHERE q.tenant_id = p_tenant_id AND q.job_id >= v_first_job_id
                ORDER BY q.job_id, q.number
                LIMIT v_max_events
            ) q
        ) q;
        v_count := cardinality(v_row_ids);
        EXIT WHEN v_count IS NULL;
        v_types := v_types || v_batch_types;

        v_now := jobs.clock_time();
        -- By ctid: nobody updates queued rows, and only the holder of the lock removes some.
        v_head := greatest(v_head, jobs.event_position(v_now) - 1);
        INSERT INTO jobs.events
            (tenant_id, position, job_id, type, occurred_at, status, counts, user_id, details)
        SELECT q.tenant_id, v_head + k.ordinality, q.job_id, q.type, q.occurred_at, q.status,
               to_json(q.counts), q.user_id, q.details
        FROM unnest(v_row_ids) WITH ORDINALITY AS k (row_id, ordinality)
        CROSS JOIN LATERAL (
            SELECT q.*
            FROM jobs.event_queue q
            WHERE q.tenant_id = p_tenant_id AND q.ctid = k.row_id
            OFFSET 0
        ) q;
        DELETE FROM jobs.event_queue q
        USING unnest(v_row_ids) AS k (row_id)
        WHERE q.tenant_id = p_tenant_id AND q.job_id >= v_first_job_id AND q.job_id <= v_last_job_id
          AND q.ctid = k.row_id;

        v_head := v_head + v_count;
        UPDATE jobs.event_heads h
        SET position = v_head, event_count = h.event_count + v_count
        WHERE h.tenant_id = p_tenant_id;
        EXIT WHEN v_examined < v_max_events AND v_count = v_examined;
        -- Skips the rows that this transaction has deleted, which a scan would examine again.
        v_first_job_id := v_last_job_id;
    END LOOP;

    -- Wakes the webhooks that wait for such events. Those that wait for others have nothing to send up to the new head.
    IF v_now IS NOT NULL THEN
        UPDATE jobs.webhooks w
        SET due_at = v_now
        WHERE w.tenant_id = p_tenant_id AND w.enabled AND w.due_at IS NULL
          AND (w.types IS NULL OR w.types && v_types);
        UPDATE jobs.webhooks w
        SET position = v_head
        WHERE w.tenant_id = p_tenant_id AND w.enabled AND w.due_at IS NULL;
    END IF;
    RETURN v_head;
END $$;
