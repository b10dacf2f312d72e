-- Returns what depends on the function or view with the OID $2 in the catalog $1, directly or not, and is
-- neither a function nor a view of the schema "jobs" with a name of $3: what migrate would drop, but not
-- create again.
WITH RECURSIVE dependents (catalog, object) AS (
    SELECT $1::text::regclass::oid, $2::oid
    UNION
    SELECT
        -- A view depends on what its rule depends on.
        CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END,
        coalesce(r.ev_class, d.objid)
    FROM dependents
    JOIN pg_depend d ON d.refclassid = dependents.catalog AND d.refobjid = dependents.object
    LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
)
SELECT pg_describe_object(d.catalog, d.object, 0) AS name
FROM dependents d
LEFT JOIN pg_proc p ON d.catalog = 'pg_proc'::regclass AND p.oid = d.object
LEFT JOIN pg_class c ON d.catalog = 'pg_class'::regclass AND c.oid = d.object
LEFT JOIN pg_type t ON d.catalog = 'pg_type'::regclass AND t.oid = d.object
-- The type of the rows of a view is not named, because the view is. The same goes for types of arrays.
WHERE NOT coalesce(t.typrelid <> 0 OR t.typelem <> 0, false) AND NOT coalesce(
    coalesce(p.pronamespace, c.relnamespace) = 'jobs'::regnamespace
    AND coalesce(p.proname, c.relname) = ANY ($3::text[]),
    false
)
ORDER BY name
