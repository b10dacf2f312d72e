-- Returns the first pending executions of several devices, device by device: for each up to its
-- limit, in the order of list_pending_executions. The last row of each device has its fingerprint
-- (see changed_pending_fingerprints) and no job_id.
--
-- Only the first row of each job has document_params, because devices usually share jobs. After
-- p_max_bytes of documents, details and rows (256 bytes each), or 200 jobs, it returns no further
-- devices: call again for them. A device has all its rows or none.
CREATE OR REPLACE FUNCTION jobs.list_watched_executions(
    p_tenant_id text,
    p_device_ids text[],
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
    document_params jsonb,
    fingerprint bigint
)
LANGUAGE plpgsql
-- Only the index on the device's queue delivers the order; see next_execution.
-- settings: page
AS $$
#variable_conflict use_column
DECLARE
    v_row record;
    v_text text;
    v_job_ids text[] := '{}';
    v_bytes bigint := 0;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant_id, true);

    -- Reads the devices one after the other, without a sort, so that it can stop early.
    FOR v_row IN
        SELECT d.ordinality::integer AS ordinality, q.*
        FROM unnest(p_device_ids, p_limits) WITH ORDINALITY AS d (device_id, page_limit)
        LEFT JOIN LATERAL (
            SELECT q.*
            FROM jobs.pending_executions q
            WHERE q.tenant_id = p_tenant_id AND q.device_id = d.device_id
            ORDER BY q.is_queued, q.queued_at, q.job_id
            LIMIT d.page_limit
        ) q ON true
    LOOP
        IF v_row.ordinality <> "position" THEN
            fingerprint := jobs.text_fingerprint(v_text);
            job_id := NULL;
            status_details := NULL;
            document_params := NULL;
            RETURN NEXT;
            "position" := NULL;
            EXIT WHEN v_bytes >= p_max_bytes OR cardinality(v_job_ids) >= 200;
            v_text := NULL;
            fingerprint := NULL;
        END IF;
        "position" := v_row.ordinality;
        CONTINUE WHEN v_row.job_id IS NULL;
        document_params := NULL;
        IF v_row.job_id <> ALL (v_job_ids) THEN
            SELECT j.document_params INTO document_params
            FROM jobs.jobs j
            WHERE j.tenant_id = p_tenant_id AND j.job_id = v_row.job_id;
            -- The statement is newer than the one of the loop, so the job can be gone.
            CONTINUE WHEN document_params IS NULL;
            v_job_ids := v_job_ids || v_row.job_id;
            v_bytes := v_bytes + length(document_params::text);
        END IF;
        v_text := concat_ws(',', v_text, v_row.state);
        job_id := v_row.job_id;
        document_type := v_row.document_type;
        status := v_row.status;
        status_details := v_row.status_details;
        execution_number := v_row.execution_number;
        version := v_row.version;
        queued_at := v_row.queued_at;
        started_at := v_row.started_at;
        last_updated_at := v_row.last_updated_at;
        expires_at := v_row.expires_at;
        times_out_at := v_row.times_out_at;
        failure_code := v_row.failure_code;
        v_bytes := v_bytes + 256 + coalesce(length(v_row.status_details::text), 0);
        RETURN NEXT;
    END LOOP;
    IF "position" IS NOT NULL THEN
        fingerprint := jobs.text_fingerprint(v_text);
        job_id := NULL;
        status_details := NULL;
        document_params := NULL;
        RETURN NEXT;
    END IF;
END $$;
