-- Returns the text of the query for the candidates of a target: the devices of which target_query keeps those that
-- match the selector. Its parameters are those of target_query. The caller has set the tenant.
CREATE OR REPLACE FUNCTION jobs.target_candidates(
    p_tenant_id text,
    p_request jsonb,        -- as in jobs.jobs.request
    p_terms jsonb,          -- of the selector of the target; []: none
    OUT source text,        -- the query; its column is device_id
    OUT is_small boolean,   -- there are so few candidates that each is looked up
    OUT is_device boolean   -- the candidates are known to be in device_state
)
LANGUAGE plpgsql STABLE
-- settings: index
AS $$
DECLARE
    c_small CONSTANT integer := 10000;
    v_failed_in jsonb := p_request -> 'target_failed_in';
BEGIN
    is_small := true;
    is_device := true;
    IF v_failed_in IS NOT NULL THEN
        is_device := false;
        is_small := NOT EXISTS (
            SELECT FROM jobs.job_executions e
            WHERE e.tenant_id = p_tenant_id AND e.job_id = v_failed_in ->> 'job_id'
            OFFSET c_small
        );
        source := format(
            'SELECT e.device_id FROM jobs.execution_states e'
            ' WHERE e.tenant_id = $1 AND e.job_id = %L AND e.status = ANY (%L::text[])',
            v_failed_in ->> 'job_id',
            ARRAY(SELECT jsonb_array_elements_text(v_failed_in -> 'statuses'))
        );
        IF v_failed_in ? 'failure_codes' THEN
            source := source || format(
                ' AND e.failure_code = ANY (%L::text[])',
                ARRAY(SELECT jsonb_array_elements_text(v_failed_in -> 'failure_codes'))
            );
        END IF;
    ELSIF p_request ? 'target_range' THEN
        is_small := false;
        source := 'SELECT d.device_id FROM public.device_state d WHERE d.tenant_id = $1'
            || jobs.range_condition('d.device_id COLLATE "C"', p_request -> 'target_range');
    ELSIF p_request ? 'target_device_ids' THEN
        source := 'SELECT d.device_id FROM public.device_state d'
            ' WHERE d.tenant_id = $1 AND d.device_id = ANY ($2)';
    ELSIF p_request ? 'target_group_id' THEN
        -- Members that are not in device_state are targets as well.
        is_small := NOT EXISTS (
            SELECT FROM public.device_group_members m
            WHERE m.tenant_id = p_tenant_id AND m.group_id = p_request ->> 'target_group_id'
            OFFSET c_small
        );
        source := format(
            'SELECT m.device_id FROM public.device_group_members m'
            ' WHERE m.tenant_id = $1 AND m.group_id = %L',
            p_request ->> 'target_group_id'
        );
    ELSIF p_request ? 'target_device_id' THEN
        source := format(
            'SELECT d.device_id FROM public.device_state d'
            ' WHERE d.tenant_id = $1 AND d.device_id = %L',
            p_request ->> 'target_device_id'
        );
    ELSIF EXISTS (
        SELECT FROM jobs.selector_candidates(
            p_tenant_id, p_terms, '', repeat(chr(1114111), 257), NULL, c_small
        ) c
        WHERE c.device_ids IS NOT NULL AND c.complete_up_to IS NULL
    ) THEN
        -- Called again by the query, so that the candidates are of the same snapshot.
        is_device := false;
        source := format(
            'SELECT u.device_id FROM jobs.selector_candidates('
            '$1, %L, %L, repeat(chr(1114111), 257), NULL, 10000000) c'
            ' CROSS JOIN LATERAL unnest(c.device_ids) AS u (device_id)',
            p_terms, ''
        );
    ELSE
        is_small := false;
        source := 'SELECT d.device_id FROM public.device_state d WHERE d.tenant_id = $1';
    END IF;
END $$;
