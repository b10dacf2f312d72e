-- Copies the jobs of the platform, in the tables public.jobs and public.job_executions, to this
-- service, and freezes the two tables: later writes to them fail. Run it in one transaction, as a
-- login that owns the tables of both: see docs/migration.md.
--
-- Raises an exception if a row breaks a rule of this service. Then nothing is copied.

-- Fail instead of copying only the rows of one tenant.
SET LOCAL row_security = off;

-- Only for Citus: write rows and create a function in one transaction.
SET LOCAL citus.multi_shard_modify_mode = 'sequential';

-- Writers wait until the transaction ends, and then fail.
LOCK TABLE public.jobs, public.job_executions IN SHARE ROW EXCLUSIVE MODE;

-- The copied jobs, with the number of their executions in each status.
CREATE TEMPORARY TABLE copied_jobs ON COMMIT DROP AS
SELECT
    j.tenant_id::text, j.job_id::text, j.document_type::text,
    coalesce(j.document_params, '{}') AS document_params,
    -- The platform stored several targets and used the first of them.
    nullif(j.target_device_id::text, '') AS target_device_id,
    CASE WHEN coalesce(j.target_device_id::text, '') = ''
         THEN nullif(j.target_group_id::text, '') END AS target_group_id,
    coalesce(j.target_all, false) AND coalesce(j.target_device_id::text, '') = ''
        AND coalesce(j.target_group_id::text, '') = '' AS target_all,
    j.status::text, j.expires_at, nullif(j.created_by::text, '') AS created_by,
    j.created_at, coalesce(j.updated_at, j.created_at) AS updated_at,
    coalesce(e.queued, 0) AS queued,
    coalesce(e.in_progress, 0) AS in_progress,
    coalesce(e.succeeded, 0) AS succeeded,
    coalesce(e.failed, 0) AS failed,
    coalesce(e.timed_out, 0) AS timed_out,
    coalesce(e.rejected, 0) AS rejected,
    e.last_updated_at, e.cancel_reason
FROM public.jobs j
LEFT JOIN (
    SELECT
        e.tenant_id, e.job_id,
        count(*) FILTER (WHERE e.status::text = 'QUEUED') AS queued,
        count(*) FILTER (WHERE e.status::text = 'IN_PROGRESS') AS in_progress,
        count(*) FILTER (WHERE e.status::text = 'SUCCEEDED') AS succeeded,
        count(*) FILTER (WHERE e.status::text = 'FAILED') AS failed,
        count(*) FILTER (WHERE e.status::text = 'TIMED_OUT') AS timed_out,
        count(*) FILTER (WHERE e.status::text = 'REJECTED') AS rejected,
        max(e.last_updated_at) AS last_updated_at,
        -- The platform stored the reason of a cancel in the executions that it rejected.
        (array_agg(e.status_details ->> 'reason' ORDER BY e.last_updated_at DESC) FILTER (
            WHERE e.status::text = 'REJECTED' AND e.started_at IS NULL
              -- The platform's text for a cancel without a reason.
              AND e.status_details ->> 'reason' NOT IN ('', 'canceled by operator')
        ))[1] AS cancel_reason
    FROM public.job_executions e
    GROUP BY e.tenant_id, e.job_id
) e ON e.tenant_id = j.tenant_id AND e.job_id = j.job_id;

ALTER TABLE copied_jobs ADD PRIMARY KEY (tenant_id, job_id);
ANALYZE copied_jobs;

DO $$
DECLARE
    -- If JOBS_MAX_DOCUMENT_BYTES of the servers is larger, set jobs.max_document_bytes to it.
    v_max_bytes integer := coalesce(
        nullif(current_setting('jobs.max_document_bytes', true), ''), '32768'
    )::integer;
    v_control_characters constant text := '[\u0001-\u001f\u007f-\u009f]';
    -- Objects and arrays nested deeper than 20 levels.
    v_too_deep constant jsonpath :=
        'strict $.**{20} ? (@.type() == "object" || @.type() == "array")';
    v_problems text;
BEGIN
    SELECT string_agg(
        format('%s (%s rows, such as %s)', p.problem, p.count, p.example), '; ' ORDER BY p.problem
    )
    INTO v_problems
    FROM (
        SELECT p.problem, count(*), min(p.example) AS example
        FROM (
            SELECT format('job %s of tenant %s', j.job_id, j.tenant_id) AS example, problem
            FROM copied_jobs j
            CROSS JOIN LATERAL (VALUES
                (char_length(j.tenant_id) NOT BETWEEN 1 AND 256
                 OR j.tenant_id !~ '^[ -~]*$' OR j.tenant_id ~ '^ |,| $',
                 'jobs.tenant_id is not 1–256 printable ASCII characters without comma'),
                (j.job_id !~ '^[A-Za-z0-9._:-]{1,128}$',
                 'jobs.job_id is not 1–128 characters of A-Z a-z 0-9 . _ : -'),
                (char_length(j.document_type) NOT BETWEEN 1 AND 100
                 OR j.document_type ~ v_control_characters,
                 'jobs.document_type is not 1–100 characters without control characters'),
                (jsonb_typeof(j.document_params) <> 'object'
                 OR jsonb_path_exists(j.document_params, v_too_deep),
                 'jobs.document_params is not an object of at most 20 levels'),
                (octet_length(j.document_params::text) > v_max_bytes,
                 format('jobs.document_params has more than %s bytes', v_max_bytes)),
                (num_nonnulls(j.target_device_id, j.target_group_id) + j.target_all::integer <> 1
                 OR char_length(coalesce(j.target_device_id, j.target_group_id)) > 256
                 OR coalesce(j.target_device_id, j.target_group_id) ~ v_control_characters,
                 'jobs has no valid target'),
                (j.status NOT IN ('IN_PROGRESS', 'COMPLETED', 'CANCELED'),
                 'jobs.status is unknown'),
                (j.status = 'COMPLETED' AND (j.in_progress > 0
                 OR j.queued > 0 AND coalesce(j.expires_at > now(), true)),
                 'jobs.status is COMPLETED, but devices have not finished')
            ) AS rule (broken, problem)
            WHERE rule.broken
            UNION ALL
            SELECT format('device %s of job %s of tenant %s', e.device_id, e.job_id, e.tenant_id),
                   problem
            FROM public.job_executions e
            LEFT JOIN copied_jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
            CROSS JOIN LATERAL (VALUES
                (j.job_id IS NULL, 'job_executions has no job'),
                (char_length(e.device_id::text) NOT BETWEEN 1 AND 256
                 OR e.device_id::text ~ v_control_characters,
                 'job_executions.device_id is not 1–256 characters without control characters'),
                (e.status::text NOT IN
                     ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED'),
                 'job_executions.status is unknown'),
                (jsonb_typeof(e.status_details) NOT IN ('object', 'null')
                 OR jsonb_path_exists(e.status_details, v_too_deep),
                 'job_executions.status_details is not an object of at most 20 levels'),
                (octet_length(e.status_details::text) > v_max_bytes,
                 format('job_executions.status_details has more than %s bytes', v_max_bytes))
            ) AS rule (broken, problem)
            WHERE rule.broken
            UNION ALL
            SELECT format('job %s of tenant %s', j.job_id, j.tenant_id),
                   'the job exists in this service'
            FROM jobs.jobs j
            JOIN copied_jobs c ON c.tenant_id = j.tenant_id AND c.job_id = j.job_id
        ) p
        GROUP BY p.problem
    ) p;
    IF v_problems IS NOT NULL THEN
        RAISE EXCEPTION 'nothing was copied; fix these rows, and run this file again: %', v_problems;
    END IF;
END $$;

INSERT INTO jobs.jobs
    (tenant_id, job_id, document_type, document_params, target_device_id, target_group_id,
     target_all, expires_in_hours, expires_at, status, completed_at, canceled_at, cancel_reason,
     finalized, created_by, created_at, updated_at, request)
SELECT
    j.tenant_id, j.job_id, j.document_type, j.document_params, j.target_device_id,
    j.target_group_id, j.target_all, requested.expires_in_hours,
    j.expires_at, final.status, CASE WHEN final.status = 'COMPLETED' THEN final.at END,
    CASE WHEN final.status = 'CANCELED' THEN final.at END,
    CASE WHEN final.status = 'CANCELED'
         THEN coalesce(j.cancel_reason, '') END,
    -- If not, the sweeper writes the statuses that the cancel or the expiry has changed.
    j.queued = 0, j.created_by, j.created_at, coalesce(final.at, j.updated_at),
    -- The original request, so that a repeated CreateJob returns the same job.
    jsonb_strip_nulls(jsonb_build_object(
        'document_type', j.document_type,
        'target_device_id', j.target_device_id,
        'target_group_id', j.target_group_id,
        'target_all', CASE WHEN j.target_all THEN true END,
        'expires_in_hours', coalesce(requested.expires_in_hours, 0)
    ))
FROM copied_jobs j
CROSS JOIN LATERAL (
    SELECT CASE WHEN j.expires_at IS NOT NULL
                THEN greatest(round(extract(epoch FROM j.expires_at - j.created_at) / 3600), 1)
           END::integer AS expires_in_hours
) requested
CROSS JOIN LATERAL (
    -- The platform left some jobs IN_PROGRESS although all their devices have finished.
    SELECT
        CASE WHEN j.status = 'CANCELED' THEN 'CANCELED'
             WHEN j.queued + j.in_progress > 0 THEN 'IN_PROGRESS'
             ELSE 'COMPLETED' END::jobs.job_status AS status,
        CASE WHEN j.status <> 'IN_PROGRESS' THEN j.updated_at
             WHEN j.queued + j.in_progress = 0 THEN coalesce(j.last_updated_at, j.updated_at)
        END AS at
) final;

INSERT INTO jobs.job_progress
    (tenant_id, job_id, queued, in_progress, succeeded, failed, timed_out, rejected)
SELECT j.tenant_id, j.job_id, j.queued, j.in_progress, j.succeeded, j.failed, j.timed_out,
       j.rejected
FROM copied_jobs j;

INSERT INTO jobs.job_executions
    (tenant_id, job_id, device_id, status, execution_number, canceled_by_operator, queued_at,
     started_at, last_updated_at, status_details, failure_code, end_cause)
SELECT
    e.tenant_id, e.job_id, e.device_id, e.status::text::jobs.execution_status,
    coalesce(e.execution_number, 1), canceled.by_operator, time.queued_at,
    CASE WHEN e.status::text = 'QUEUED' THEN NULL
         WHEN e.status::text = 'IN_PROGRESS' THEN coalesce(e.started_at, time.last_updated_at)
         ELSE e.started_at END,
    time.last_updated_at,
    nullif(e.status_details, 'null'),
    -- '' if the device failed: the platform had no failure codes.
    CASE WHEN e.status::text = 'FAILED'
              OR e.status::text = 'TIMED_OUT' AND e.started_at IS NOT NULL
              OR e.status::text = 'REJECTED' AND NOT canceled.by_operator THEN '' END,
    CASE WHEN canceled.by_operator THEN 'JOB_CANCELED' END
FROM public.job_executions e
JOIN copied_jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
CROSS JOIN LATERAL (
    -- A cancel rejected the executions that no device had started.
    SELECT e.status::text = 'REJECTED' AND j.status = 'CANCELED' AND e.started_at IS NULL
        AS by_operator
) canceled
CROSS JOIN LATERAL (
    SELECT coalesce(e.queued_at, j.created_at) AS queued_at,
           coalesce(e.last_updated_at, e.started_at, e.queued_at, j.created_at) AS last_updated_at
) time;

INSERT INTO jobs.job_failures (tenant_id, job_id, status, failure_code, executions)
SELECT e.tenant_id, e.job_id, e.status, e.failure_code, count(*)
FROM jobs.job_executions e
JOIN copied_jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
WHERE e.failure_code IS NOT NULL
GROUP BY e.tenant_id, e.job_id, e.status, e.failure_code;

-- Checks the counts, and freezes the tables of the platform.
DO $$
DECLARE
    v_jobs bigint := (SELECT count(*) FROM public.jobs);
    v_executions bigint := (SELECT count(*) FROM public.job_executions);
    v_copied_jobs bigint;
    v_copied_executions bigint;
    v_counted bigint;
BEGIN
    SELECT count(*),
           sum(p.queued + p.in_progress + p.succeeded + p.failed + p.timed_out + p.rejected)
    INTO v_copied_jobs, v_counted
    FROM jobs.job_progress p
    JOIN copied_jobs j ON j.tenant_id = p.tenant_id AND j.job_id = p.job_id;
    SELECT count(*) INTO v_copied_executions
    FROM jobs.job_executions e
    JOIN copied_jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id;
    IF (v_jobs, v_executions, v_executions)
       IS DISTINCT FROM (v_copied_jobs, v_copied_executions, coalesce(v_counted, 0)) THEN
        RAISE EXCEPTION '% of % jobs and % of % executions were copied; their counts add up to %',
            v_copied_jobs, v_jobs, v_copied_executions, v_executions, v_counted;
    END IF;

    CREATE FUNCTION jobs.refuse_write_after_copy() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $function$
    BEGIN
        RAISE EXCEPTION 'the jobs have moved to jobs-grpc: % is read-only', TG_RELID::regclass;
    END $function$;
    CREATE TRIGGER moved_to_jobs_grpc
        BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.jobs
        FOR EACH STATEMENT EXECUTE FUNCTION jobs.refuse_write_after_copy();
    CREATE TRIGGER moved_to_jobs_grpc
        BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.job_executions
        FOR EACH STATEMENT EXECUTE FUNCTION jobs.refuse_write_after_copy();
END $$;

ANALYZE jobs.jobs, jobs.job_progress, jobs.job_executions, jobs.job_failures;

-- Shows what was copied.
SELECT e.status, count(*) AS executions, count(DISTINCT (e.tenant_id, e.job_id)) AS jobs
FROM jobs.job_executions e
JOIN copied_jobs j ON j.tenant_id = e.tenant_id AND j.job_id = e.job_id
GROUP BY e.status
ORDER BY e.status;
