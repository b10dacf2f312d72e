-- Stores the request of the jobs that were created before requests were stored, and the target of those for
-- all devices in the stored request. rollout_request, default_expiry and requested_timeout_minutes are no
-- longer used. Whether the request of a job with a rollout stated 24 hours may be unknown: then it did not.
UPDATE jobs.jobs SET request = coalesce(
    request,
    jsonb_strip_nulls(jsonb_object(ARRAY[
        'document_type', document_type,
        'target_device_id', target_device_id,
        'target_group_id', target_group_id
    ]))
    || CASE
        WHEN rollout_request ->> 'rollout' IS NOT NULL
            AND (default_expiry OR coalesce(expires_in_hours = 24, false)) THEN '{}'::jsonb
        ELSE ('{"expires_in_hours": ' || coalesce(expires_in_hours, 0)::text || '}')::jsonb
    END
    || CASE
        WHEN coalesce(requested_timeout_minutes, in_progress_timeout_minutes, 0) = 0 THEN '{}'::jsonb
        ELSE (
            '{"in_progress_timeout_minutes": '
            || coalesce(requested_timeout_minutes, in_progress_timeout_minutes)::text || '}'
        )::jsonb
    END
    || jsonb_strip_nulls(coalesce(rollout_request, '{}'::jsonb))
) || CASE WHEN target_all THEN '{"target_all": true}'::jsonb ELSE '{}'::jsonb END
WHERE request IS NULL OR target_all;
