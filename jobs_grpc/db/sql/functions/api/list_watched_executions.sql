-- Returns the first pending executions of several devices, device by device: for each up to its
-- limit, in the order of list_pending_executions, without those that wait. The last row of each device has its
-- fingerprint (see changed_pending_fingerprints), its ended_executions and no job_id.
--
-- Only the first row of each job has document_params, because devices usually share jobs. After
-- p_max_bytes of documents, details and rows (256 bytes each), or 200 jobs, it returns no further
-- devices: call again for them. A device has all its rows or none.
CREATE OR REPLACE FUNCTION jobs.list_watched_executions(
    p_tenant_id text, p_device_ids text[],
    p_limits integer[],  -- one per device
    p_max_bytes integer
) RETURNS TABLE (
    "position" integer,  -- of the device in p_device_ids, from 1
    job_id text,
    document_type text,
    status text,
    status_details jsonb,
    execution_number integer,
    version integer,
    queued_at timestamptz,
    started_at timestamptz,
    last_updated_at timestamptz,
    expires_at timestamptz,
    times_out_at timestamptz,
    failure_code text,
    cancel_requested boolean,
    document_params jsonb,
    fingerprint bigint,
    ended_executions jsonb  -- see the function
)
LANGUAGE plpgsql STABLE
-- Only the index on the device's queue delivers the order; see next_execution.
-- settings: tenant, page
AS $$
#variable_conflict use_column
DECLARE
    v_state text;  -- of one execution; see pending_executions
    v_states text;
    v_job_ids text[] := '{}';
    v_bytes bigint := 0;
BEGIN
    -- Reads the devices one after the other, without a sort, so that it can stop early. After the
    -- executions of each device comes a row without a job_id.
    FOR "position", job_id, document_type, status, status_details, execution_number, version,
        queued_at, started_at, last_updated_at, expires_at, times_out_at, failure_code, cancel_requested,
        ended_executions, v_state IN
        SELECT d.ordinality, q.*
        FROM unnest(p_device_ids, p_limits) WITH ORDINALITY AS d (device_id, page_limit)
        CROSS JOIN LATERAL (
            (
                SELECT q.job_id, q.document_type, q.status, q.status_details, q.execution_number,
                       q.version, q.queued_at, q.started_at, q.last_updated_at, q.expires_at,
                       q.times_out_at, q.failure_code, q.cancel_requested, NULL::jsonb, q.state
                FROM jobs.pending_executions q
                WHERE q.tenant_id = p_tenant_id AND q.device_id = d.device_id
                  AND NOT q.is_waiting_in_watch
                ORDER BY q.is_queued, q.queue_order, q.queued_at, q.job_id
                LIMIT d.page_limit
            )
            UNION ALL
            SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                   CASE WHEN jobs.has_ended_executions(p_tenant_id, d.device_id)
                        THEN jobs.ended_executions(p_tenant_id, d.device_id) END,
                   NULL
        ) q
    LOOP
        document_params := NULL;
        fingerprint := NULL;
        IF job_id IS NULL THEN
            fingerprint := jobs.text_fingerprint(v_states);
            v_bytes := v_bytes + coalesce(length(ended_executions::text), 0);
            RETURN NEXT;
            EXIT WHEN v_bytes >= p_max_bytes OR cardinality(v_job_ids) >= 200;
            v_states := NULL;
            CONTINUE;
        END IF;
        IF job_id <> ALL (v_job_ids) THEN
            SELECT j.document_params INTO document_params
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = list_watched_executions.job_id;
            v_job_ids := v_job_ids || job_id;
            v_bytes := v_bytes + length(document_params::text);
        END IF;
        v_states := concat_ws(',', v_states, v_state);
        v_bytes := v_bytes + 256 + coalesce(length(status_details::text), 0);
        RETURN NEXT;
    END LOOP;
END $$;
