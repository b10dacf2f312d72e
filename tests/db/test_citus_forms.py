"""The SQL is in forms that also run on Citus. docs/decisions/citus.md has the reasons."""

import ast as python_ast
from importlib.resources import files

import pytest

from jobs_grpc.db import schema
from tests.support import citus_forms as forms
from tests.support.citus_forms import Catalog
from tests.support.database import Database

# The first migration runs before the tables are distributed.
_LAST_MIGRATION_BEFORE_DISTRIBUTION = 1

_SQL = files("jobs_grpc.db").joinpath("sql")
# Functions that maintenance calls for all tenants.
_ACROSS_TENANTS = {
    path.name.removesuffix(".sql") for path in _SQL.joinpath("functions/maintenance").iterdir()
}

_FUNCTIONS = """
    SELECT proname::text AS name, pg_get_functiondef(oid) AS definition
    FROM pg_proc WHERE pronamespace = 'jobs'::regnamespace ORDER BY 1
"""
_VIEWS = """
    SELECT viewname::text AS name, definition FROM pg_views WHERE schemaname = 'jobs'
"""
_POLICIES = """
    SELECT format('%s on %s', polname, polrelid::regclass) FROM pg_policy
    WHERE polqual::text LIKE '%SUBLINK%' OR polwithcheck::text LIKE '%SUBLINK%'
"""
_TRIGGERS = """
    SELECT format('%s on %s', tgname, tgrelid::regclass)
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE NOT tgisinternal AND c.relnamespace <> 'pg_catalog'::regnamespace
"""
_KEYS_WITHOUT_TENANT = """
    SELECT i.indexrelid::regclass::text FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'tenant_id'
    WHERE i.indisunique AND a.attnum <> ALL (i.indkey)
"""
# Citus takes the functions that such a body or view calls for dependencies of the record type.
_FIELDS_BESIDE_FUNCTIONS_OF_THEIR_RECORD = """
    SELECT DISTINCT function.oid::regprocedure::text
    FROM pg_depend field
    JOIN pg_class record ON record.oid = field.refobjid AND record.relkind = 'c'
    JOIN pg_depend call ON (call.classid, call.objid) = (field.classid, field.objid)
    JOIN pg_proc function
        ON function.oid = call.refobjid AND record.reltype = ANY (function.proargtypes)
    WHERE field.refclassid = 'pg_class'::regclass AND call.refclassid = 'pg_proc'::regclass
"""


@pytest.fixture(scope="module")
async def catalog(database: Database) -> Catalog:
    return await Catalog.of(database.owner)


async def test_functions_have_only_forms_that_citus_accepts(
    database: Database, catalog: Catalog
) -> None:
    functions = await database.owner.fetch(_FUNCTIONS)

    refused = {
        function["name"]: forms.refused_in_function(
            function["definition"], catalog, across_tenants=function["name"] in _ACROSS_TENANTS
        )
        for function in functions
    }

    assert {name: found for name, found in refused.items() if found} == {}
    assert set(refused) == {name for name in schema.code() if _is_function(name)}


async def test_views_have_only_forms_that_citus_accepts(
    database: Database, catalog: Catalog
) -> None:
    views = await database.owner.fetch(_VIEWS)

    refused = {view["name"]: forms.refused_in_view(view["definition"], catalog) for view in views}

    assert {name: found for name, found in refused.items() if found} == {}
    assert set(refused) == {name for name in schema.code() if not _is_function(name)}


async def test_tables_have_only_what_citus_accepts(database: Database) -> None:
    for query in (
        _POLICIES,
        _TRIGGERS,
        _KEYS_WITHOUT_TENANT,
        _FIELDS_BESIDE_FUNCTIONS_OF_THEIR_RECORD,
    ):
        assert await database.owner.fetch(query) == []


def test_later_migrations_have_only_forms_that_citus_accepts() -> None:
    refused = {
        migration.label: forms.refused_in_migration(migration.sql)
        for migration in schema.migrations()
        if migration.version > _LAST_MIGRATION_BEFORE_DISTRIBUTION
    }

    assert {label: found for label, found in refused.items() if found} == {}


def _is_function(name: str) -> bool:
    return "CREATE OR REPLACE FUNCTION" in schema.code()[name]


_CONDITION = "WHERE j.tenant_id = p_tenant_id AND j.job_id = p_job_id"
_UPDATE = f"UPDATE jobs.jobs j SET %s {_CONDITION}"


_REFUSED = {
    forms.VOLATILE_IN_WRITE: [
        _UPDATE % "job_id = gen_random_uuid()::text",
        _UPDATE % "updated_at = clock_timestamp()",
        f"DELETE FROM jobs.jobs j {_CONDITION} AND random() > 0.5",
        "EXECUTE format('UPDATE jobs.jobs j SET updated_at = clock_timestamp()"
        " WHERE j.tenant_id = $1 AND j.status = %L', v_text) USING p_tenant_id",
    ],
    forms.VOLATILE_IN_SOURCE: [
        "DELETE FROM jobs.jobs j USING unnest(jobs.missing_devices(p_tenant_id, v_texts)) AS u (id)"
        " WHERE j.tenant_id = p_tenant_id AND j.job_id = u.id"
    ],
    forms.STABLE_IN_CASE: [
        _UPDATE % "updated_at = CASE WHEN j.finalized THEN now() END",
        _UPDATE % "expires_at = coalesce(j.expires_at, now())",
        _UPDATE % "expires_at = CASE WHEN j.finalized THEN v_now + v_interval END",
        _UPDATE % "status = CASE WHEN j.finalized THEN v_text::jobs.job_status END",
        _UPDATE % "created_by = CASE WHEN j.finalized"
        " THEN jobs.next_execution(p_tenant_id, 'd') END",
    ],
    forms.STABLE_WITH_COLUMN: [
        _UPDATE % "expires_at = j.expires_at + v_interval",
        _UPDATE % "trip = jsonb_build_object('at', j.created_at)",
        _UPDATE % "finalized = true" + " AND j.created_at < now() - make_interval(days => 1)"
        " AND j.created_by = format('%s', j.job_id)",
    ],
    forms.SUBSCRIPT_IN_SET: [_UPDATE % "revision = v_numbers[1]"],
    forms.SET_TENANT: [_UPDATE % "tenant_id = v_text"],
    forms.MUTABLE_IN_RETURNING: [_UPDATE % "finalized = true" + " RETURNING now()"],
    forms.INSERT_IN_CTE: [
        "WITH i AS (INSERT INTO jobs.job_progress (tenant_id, job_id, queued)"
        " VALUES (p_tenant_id, p_job_id, 1) RETURNING tenant_id) SELECT FROM i"
    ],
    forms.VOLATILE_IN_CTE: [
        "WITH t AS (SELECT random() AS r) UPDATE jobs.jobs j SET finalized = t.r > 0.5 FROM t"
        f" {_CONDITION}"
    ],
    forms.SELECT_IN_VALUES: [
        "INSERT INTO jobs.job_progress (tenant_id, job_id, queued)"
        " VALUES (p_tenant_id, p_job_id, (SELECT 1))"
    ],
    forms.VARIABLE_IN_ON_CONFLICT: [
        "INSERT INTO jobs.job_progress AS p (tenant_id, job_id, queued)"
        " SELECT p_tenant_id, p_job_id, 1 ON CONFLICT (tenant_id, job_id)"
        " DO UPDATE SET queued = p.queued + v_numbers[1]"
    ],
    forms.ROW_COUNT_OF_UPSERT: [
        "IF p_job_id IS NULL THEN INSERT INTO jobs.job_progress (tenant_id, job_id)"
        " SELECT p_tenant_id, p_job_id ON CONFLICT DO NOTHING;"
        " GET DIAGNOSTICS v_count = ROW_COUNT; END IF"
    ],
    forms.CASE_WITH_OPERAND: [
        f"PERFORM CASE j.status WHEN 'CANCELED' THEN 1 END FROM jobs.jobs j {_CONDITION}"
    ],
    forms.WITHOUT_TENANT: [
        "PERFORM FROM jobs.jobs j WHERE j.job_id = p_job_id",
        f"PERFORM FROM jobs.jobs j JOIN jobs.job_progress p ON p.job_id = j.job_id {_CONDITION}",
    ],
}
_REFUSED_ACROSS_TENANTS = {
    forms.SEVERAL_TABLES_ACROSS_TENANTS: [
        "PERFORM FROM jobs.jobs j CROSS JOIN LATERAL (SELECT FROM jobs.job_progress p"
        " WHERE p.tenant_id = j.tenant_id AND p.job_id = j.job_id OFFSET 0) p"
    ],
    forms.LOCK_ACROSS_TENANTS: [
        "PERFORM FROM jobs.jobs j ORDER BY j.updated_at LIMIT 1 FOR UPDATE"
    ],
    forms.NO_COLUMNS_ACROSS_TENANTS: [
        "PERFORM count(*) FROM (SELECT FROM jobs.jobs j ORDER BY j.updated_at LIMIT 1) j"
    ],
}


@pytest.mark.parametrize(
    ("form", "statement", "across_tenants"),
    [
        (form, statement, refused is _REFUSED_ACROSS_TENANTS)
        for refused in (_REFUSED, _REFUSED_ACROSS_TENANTS)
        for form, statements in refused.items()
        for statement in statements
    ],
)
async def test_refused_form_is_found(
    catalog: Catalog, form: str, statement: str, across_tenants: bool
) -> None:
    definition = _function(statement)

    assert form in forms.refused_in_function(definition, catalog, across_tenants=across_tenants)


@pytest.mark.parametrize(
    "body",
    [
        "BEGIN ATOMIC SELECT j.job_id FROM jobs.jobs j WHERE j.tenant_id = p_tenant_id; END",
        "RETURN (SELECT j.job_id FROM jobs.jobs j WHERE j.tenant_id = p_tenant_id)",
    ],
)
async def test_sql_function_over_a_table_is_found(body: str, catalog: Catalog) -> None:
    definition = f"CREATE FUNCTION jobs.f(p_tenant_id text) RETURNS text LANGUAGE sql {body}"

    assert forms.refused_in_function(definition, catalog, across_tenants=False) == [
        forms.SQL_FUNCTION
    ]


async def test_refused_form_in_a_view_is_found(catalog: Catalog) -> None:
    definition = """
        SELECT e.tenant_id FROM jobs.job_executions e CROSS JOIN LATERAL (
            SELECT FROM jobs.jobs j
            WHERE j.tenant_id = e.tenant_id AND j.job_id = e.job_id OFFSET 0
        ) j
    """

    assert forms.refused_in_view(definition, catalog) == [forms.OFFSET_IN_VIEW]


@pytest.mark.parametrize(
    "statement",
    [
        _UPDATE % "updated_at = v_now, expires_at = v_now + v_interval",
        _UPDATE % "updated_at = now()",
        _UPDATE % "revision = j.revision + 1",
        _UPDATE % "updated_at = CASE WHEN j.finalized THEN v_now ELSE j.updated_at END",
        "PERFORM CASE v_text WHEN 'x' THEN 1 END",
        "PERFORM pg_notify('jobs', v_text)",
        f"PERFORM clock_timestamp() - j.created_at FROM jobs.jobs j {_CONDITION} FOR UPDATE",
    ],
)
async def test_accepted_form_is_not_found(statement: str, catalog: Catalog) -> None:
    definition = _function(statement)

    assert forms.refused_in_function(definition, catalog, across_tenants=False) == []


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON jobs.jobs EXECUTE FUNCTION f()", forms.TRIGGER),
        ("CREATE POLICY p ON jobs.jobs USING (tenant_id = (SELECT 'x'))", forms.SELECT_IN_POLICY),
        (
            "ALTER TABLE jobs.jobs ADD COLUMN a integer, ADD CONSTRAINT c CHECK (a > 0)",
            forms.SEVERAL_CHANGES_WITH_CONSTRAINT,
        ),
        ("CREATE TABLE jobs.t (job_id text PRIMARY KEY)", forms.KEY_WITHOUT_TENANT),
        ("CREATE TABLE jobs.t (tenant_id text, a text, UNIQUE (a))", forms.KEY_WITHOUT_TENANT),
        ("CREATE UNIQUE INDEX i ON jobs.jobs (job_id)", forms.KEY_WITHOUT_TENANT),
    ],
)
def test_refused_form_in_a_migration_is_found(sql: str, expected: str) -> None:
    assert forms.refused_in_migration(sql) == [expected]


def test_accepted_migration_has_no_refused_form() -> None:
    sql = (
        "CREATE TABLE jobs.t (tenant_id text, a integer, PRIMARY KEY (tenant_id, a));"
        "ALTER TABLE jobs.t ADD COLUMN b integer, ADD COLUMN c integer;"
        "ALTER TABLE jobs.t ADD CONSTRAINT d CHECK (b > 0)"
    )

    assert forms.refused_in_migration(sql) == []


@pytest.mark.single_node("Citus refuses the policy")
async def test_policy_with_a_sub_select_is_found(database: Database) -> None:
    transaction = database.owner.transaction()
    await transaction.start()
    await database.owner.execute(
        "CREATE POLICY p ON jobs.jobs USING (tenant_id = (SELECT current_setting('x')))"
    )

    found = [row[0] for row in await database.owner.fetch(_POLICIES)]

    await transaction.rollback()
    assert found == ["p on jobs.jobs"]


def _function(statement: str) -> str:
    return f"""
        CREATE FUNCTION jobs.f(p_tenant_id text, p_job_id text) RETURNS void
        LANGUAGE plpgsql AS $f$
        DECLARE
            v_now timestamptz;
            v_interval interval;
            v_text text;
            v_numbers integer[];
            v_count bigint;
        BEGIN
            {statement};
        END $f$
    """


def test_request_path_opens_no_transaction() -> None:
    """Citus does not delegate a call inside BEGIN … COMMIT."""
    for module in ("store", "database", "update_batcher"):
        source = files("jobs_grpc.db").joinpath(f"{module}.py").read_text(encoding="utf-8")
        calls = {
            node.func.attr
            for node in python_ast.walk(python_ast.parse(source))
            if isinstance(node, python_ast.Call) and isinstance(node.func, python_ast.Attribute)
        }

        assert "transaction" not in calls, module
