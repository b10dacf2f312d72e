"""Finds SQL that Citus refuses on distributed tables, without Citus.

Reads the syntax trees of statements, and from the catalog the volatility of functions and the types
of columns. docs/decisions/citus.md explains the rules.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import pglast
from pglast import ast, enums, visitors

# One word per form that Citus refuses, or that it plans or runs in another way than PostgreSQL.
SQL_FUNCTION = "LANGUAGE sql function over tables"
VOLATILE_IN_WRITE = "VOLATILE function in an UPDATE or DELETE"
VOLATILE_IN_SOURCE = "VOLATILE function in FROM or USING of an UPDATE or DELETE"
STABLE_IN_CASE = "STABLE function or operator in CASE or COALESCE of an UPDATE or DELETE"
STABLE_WITH_COLUMN = "STABLE function or operator with a column in an UPDATE or DELETE"
MUTABLE_IN_RETURNING = "function that is not IMMUTABLE in RETURNING"
SUBSCRIPT_IN_SET = "SET column = array[n]"
SET_TENANT = "UPDATE of tenant_id"
INSERT_IN_CTE = "INSERT in a CTE"
VOLATILE_IN_CTE = "VOLATILE function in a CTE of a write"
SELECT_IN_VALUES = "sub-select in VALUES of an INSERT"
VARIABLE_IN_ON_CONFLICT = "variable in ON CONFLICT of an INSERT … SELECT"
ROW_COUNT_OF_UPSERT = "ROW_COUNT of an INSERT … SELECT … ON CONFLICT"
CASE_WITH_OPERAND = "CASE operand WHEN over tables"
WITHOUT_TENANT = "table without a condition on tenant_id"
OFFSET_IN_VIEW = "OFFSET in a view over tables"
LOCK_ACROSS_TENANTS = "FOR UPDATE across tenants"
SEVERAL_TABLES_ACROSS_TENANTS = "join or LATERAL across tenants"
NO_COLUMNS_ACROSS_TENANTS = "sub-select without columns in FROM across tenants"
SELECT_IN_POLICY = "sub-select in a policy"
TRIGGER = "trigger"
SEVERAL_CHANGES_WITH_CONSTRAINT = "ALTER TABLE with ADD CONSTRAINT and another change"
KEY_WITHOUT_TENANT = "unique key without tenant_id"

# The simplest query that target_query returns. test_citus_forms.py checks others.
_TARGETS = """
    SELECT d.device_id, NULL::integer AS claim FROM public.device_state d WHERE d.tenant_id = $1
"""

_SCHEMAS = ("jobs", "public")
_UNIQUE = (enums.ConstrType.CONSTR_PRIMARY, enums.ConstrType.CONSTR_UNIQUE)
# Times, by name: for columns of sub-selects, whose types the catalog does not have.
_TIME = re.compile(r"_(at|since|until)$")
# The parser of PL/pgSQL knows no types of the schema "jobs", and no enums.
_TYPES = (
    (re.compile(r"\bjobs\.(execution_status|job_status)\b"), "name"),
    # Arrays of records.
    (re.compile(r"\bjobs\.\w+\[\]"), "name[]"),
    # In a declaration: record types.
    (re.compile(r"\bjobs\."), "public."),
)


@dataclass(frozen=True)
class Catalog:
    """What the rules read of the database."""

    volatility: Mapping[str, str]
    """Of functions by name: i, s or v; the most volatile if a name has several."""
    times: frozenset[str]
    """The names of columns with a time."""
    tables: frozenset[str]
    """The names of tables and views with a tenant_id."""

    @classmethod
    async def of(cls, connection: asyncpg.Connection) -> "Catalog":
        functions = await connection.fetch(
            "SELECT proname, max(provolatile::text) AS volatility FROM pg_proc GROUP BY proname"
        )
        columns = await connection.fetch(
            "SELECT table_name::text, column_name::text, data_type::text"
            " FROM information_schema.columns WHERE table_schema = ANY ($1)",
            _SCHEMAS,
        )
        return cls(
            {row["proname"]: row["volatility"] for row in functions},
            frozenset(r["column_name"] for r in columns if r["data_type"].startswith("timestamp")),
            frozenset(r["table_name"] for r in columns if r["column_name"] == "tenant_id"),
        )


def refused_in_function(definition: str, catalog: Catalog, *, across_tenants: bool) -> list[str]:
    """Return the forms in a CREATE FUNCTION that Citus refuses.

    `across_tenants`: the function may read rows of all tenants.
    """
    (create,) = pglast.parse_sql(definition)
    if "sql" in _options(create.stmt, "language"):
        return [SQL_FUNCTION] if _tables(create.stmt, catalog) else []
    parsed = _parse_plpgsql(definition)
    variables = _variables(parsed)
    refused: list[str] = []
    for sql in _statements(parsed):
        refused += refused_in_statement(
            sql, catalog, variables=variables, across_tenants=across_tenants
        )
    if any(_is_upsert(sql, catalog) for sql in _counted_statements(parsed)):
        refused.append(ROW_COUNT_OF_UPSERT)
    return refused


def statements_of_function(definition: str) -> list[str]:
    """Return the SQL in a CREATE FUNCTION in PL/pgSQL."""
    return list(_statements(_parse_plpgsql(definition)))


def refused_in_statement(
    sql: str,
    catalog: Catalog,
    *,
    variables: Mapping[str, str] | None = None,
    across_tenants: bool = False,
) -> list[str]:
    """Return the forms in a statement that Citus refuses. `variables`: types of names in it."""
    refused: list[str] = []
    for raw in pglast.parse_sql(sql):
        refused += _Statement(raw.stmt, catalog, variables or {}, across_tenants).refused()
    return refused


def refused_in_view(definition: str, catalog: Catalog) -> list[str]:
    """Return the forms in a view that Citus refuses. Its callers limit it to a tenant."""
    refused = set(refused_in_statement(definition, catalog)) - {WITHOUT_TENANT}
    selects = _nodes(pglast.parse_sql(definition), ast.SelectStmt)
    if any(select.limitOffset and _tables(select, catalog) for select in selects):
        refused.add(OFFSET_IN_VIEW)
    return sorted(refused)


def refused_in_migration(sql: str) -> list[str]:
    """Return the forms in a migration that Citus refuses once the tables are distributed."""
    refused = []
    for raw in pglast.parse_sql(sql):
        statement: Any = raw.stmt
        keys: list[list[str]] = []
        if isinstance(statement, ast.CreateTrigStmt):
            refused.append(TRIGGER)
        elif isinstance(statement, ast.CreatePolicyStmt) and _contains(statement, ast.SubLink):
            refused.append(SELECT_IN_POLICY)
        elif isinstance(statement, ast.AlterTableStmt):
            kinds = [command.subtype for command in _tuple(statement.cmds)]
            if enums.AlterTableType.AT_AddConstraint in kinds and len(kinds) > 1:
                refused.append(SEVERAL_CHANGES_WITH_CONSTRAINT)
        elif isinstance(statement, ast.CreateStmt):
            keys = [
                [column.sval for column in _tuple(constraint.keys)]
                for constraint in _nodes(statement, ast.Constraint)
                if constraint.contype in _UNIQUE
            ]
        elif isinstance(statement, ast.IndexStmt) and statement.unique:
            keys = [[element.name for element in _tuple(statement.indexParams)]]
        if any("tenant_id" not in key for key in keys):
            refused.append(KEY_WITHOUT_TENANT)
    return refused


class _Statement:
    """One statement of a function, and what its names mean."""

    def __init__(
        self, statement: Any, catalog: Catalog, variables: Mapping[str, str], across_tenants: bool
    ) -> None:
        self._statement = statement
        self._catalog = catalog
        self._variables = variables
        self._across_tenants = across_tenants

    def refused(self) -> list[str]:
        tables = _tables(self._statement, self._catalog)
        if not tables:
            return []
        refused = []
        if any(case.arg for case in _nodes(self._statement, ast.CaseExpr)):
            refused.append(CASE_WITH_OPERAND)
        ctes = _nodes(self._statement, ast.CommonTableExpr)
        if any(isinstance(cte.ctequery, ast.InsertStmt) for cte in ctes):
            refused.append(INSERT_IN_CTE)
        writes = [
            *_nodes(self._statement, ast.UpdateStmt),
            *_nodes(self._statement, ast.DeleteStmt),
        ]
        for write in writes:
            refused += self._refused_in_write(write)
        inserts = _nodes(self._statement, ast.InsertStmt)
        for insert in inserts:
            values = getattr(insert.selectStmt, "valuesLists", None)
            if values and _contains(values, ast.SubLink):
                refused.append(SELECT_IN_VALUES)
            if not values and self._has_variable(insert.onConflictClause):
                refused.append(VARIABLE_IN_ON_CONFLICT)
        for write in (*writes, *inserts):
            if self._is_mutable(write.returningClause):
                refused.append(MUTABLE_IN_RETURNING)
            if write.withClause and "v" in self._volatilities(write.withClause):
                refused.append(VOLATILE_IN_CTE)
        if self._across_tenants:
            if len(tables) > 1:
                refused.append(SEVERAL_TABLES_ACROSS_TENANTS)
            if _contains(self._statement, ast.LockingClause):
                refused.append(LOCK_ACROSS_TENANTS)
            subselects = _nodes(self._statement, ast.RangeSubselect)
            if any(not subselect.subquery.targetList for subselect in subselects):
                refused.append(NO_COLUMNS_ACROSS_TENANTS)
        elif self._tables_without_tenant(tables):
            refused.append(WITHOUT_TENANT)
        return refused

    def _refused_in_write(self, write: Any) -> Iterator[str]:
        targets = getattr(write, "targetList", None) or ()
        for target in targets:
            if target.name == "tenant_id":
                yield SET_TENANT
            if isinstance(target.val, ast.A_Indirection) and any(
                isinstance(part, ast.A_Indices) for part in _tuple(target.val.indirection)
            ):
                yield SUBSCRIPT_IN_SET
        expressions = [target.val for target in targets]
        if write.whereClause is not None:
            expressions.append(write.whereClause)
        sources = getattr(write, "fromClause", None) or getattr(write, "usingClause", None) or ()
        if any("v" in self._volatilities(source) for source in sources):
            yield VOLATILE_IN_SOURCE
        for expression in expressions:
            if "v" in self._volatilities(expression):
                yield VOLATILE_IN_WRITE
            conditionals = [
                *_nodes(expression, ast.CaseExpr),
                *_nodes(expression, ast.CoalesceExpr),
            ]
            if any(self._is_mutable(conditional) for conditional in conditionals):
                yield STABLE_IN_CASE
            if any(self._has_column(call) for call in self._mutable_calls(expression)):
                yield STABLE_WITH_COLUMN

    def _volatilities(self, node: Any) -> set[str]:
        return {
            self._catalog.volatility.get(name, "i")
            for name in map(_function_name, _nodes(node, ast.FuncCall))
        }

    def _is_mutable(self, node: Any) -> bool:
        return bool(list(self._mutable_calls(node)))

    def _mutable_calls(self, node: Any) -> Iterator[ast.Node]:
        for call in _nodes(node, ast.FuncCall):
            if self._catalog.volatility.get(_function_name(call), "i") != "i":
                yield call
        yield from _nodes(node, ast.SQLValueFunction)
        for cast in _nodes(node, ast.TypeCast):
            # The input and output functions of enums and times are STABLE.
            name = cast.typeName.names[-1].sval
            if name in ("execution_status", "job_status", "name", "timestamptz") and not isinstance(
                cast.arg, ast.A_Const
            ):
                yield cast
        for operation in _nodes(node, ast.A_Expr):
            # A time plus an interval.
            if operation.name[-1].sval in ("+", "-") and (
                self._is_time(operation.lexpr) != self._is_time(operation.rexpr)
            ):
                yield operation

    def _is_time(self, node: Any) -> bool:
        if _function_name(node) in ("now", "clock_timestamp", "to_timestamp"):
            return True
        *qualifiers, name = _column(node) or [""]
        if not qualifiers and name in self._variables:
            return "timestamp" in self._variables[name]
        return name in self._catalog.times or bool(_TIME.search(name))

    def _has_column(self, node: Any) -> bool:
        return any(
            _column(column)[0] not in self._variables for column in _nodes(node, ast.ColumnRef)
        )

    def _has_variable(self, node: Any) -> bool:
        return any(_column(column)[0] in self._variables for column in _nodes(node, ast.ColumnRef))

    def _tables_without_tenant(self, tables: Sequence[ast.RangeVar]) -> bool:
        """Whether a table has neither a condition on tenant_id nor one that equals another's."""
        names = {table.alias.aliasname if table.alias else table.relname for table in tables}
        targets = {
            insert.relation.alias.aliasname if insert.relation.alias else insert.relation.relname
            for insert in _nodes(self._statement, ast.InsertStmt)
        }
        limited = {
            _column(side)[0]
            for comparison in _nodes(self._statement, ast.A_Expr)
            if comparison.name[-1].sval == "="
            for side in (comparison.lexpr, comparison.rexpr)
            if _column(side)[1:] == ["tenant_id"]
        }
        return not names - targets <= limited


def _tuple(nodes: tuple[Any, ...] | None) -> tuple[Any, ...]:
    return nodes or ()


def _options(create: Any, name: str) -> list[str]:
    return [option.arg.sval.lower() for option in create.options if option.defname == name]


def _tables(node: Any, catalog: Catalog) -> list[ast.RangeVar]:
    """The tables and views with a tenant_id that a statement names, with their schema."""
    return [
        table
        for table in _nodes(node, ast.RangeVar)
        if table.schemaname in _SCHEMAS and table.relname in catalog.tables
    ]


def _function_name(node: Any) -> str:
    """The name of the function that an expression calls, without the schema; '': it is no call."""
    return str(_tuple(node.funcname)[-1].sval) if type(node) is ast.FuncCall else ""


def _column(node: Any) -> list[str]:
    """The parts of the name of a column or a variable; empty if it is neither."""
    if type(node) is not ast.ColumnRef:
        return []
    return [getattr(field, "sval", "*") for field in _tuple(node.fields)]


def _contains(node: Any, kind: type) -> bool:
    return bool(_nodes(node, kind))


def _nodes(node: Any, kind: type) -> list[Any]:
    """All nodes of a kind in a syntax tree, the root included."""
    if node is None:
        return []
    if isinstance(node, tuple | list):
        return [found for part in node for found in _nodes(part, kind)]
    found: list[Any] = []

    class Collect(visitors.Visitor):
        def visit(self, ancestors: Any, node: Any) -> None:
            if isinstance(node, kind):
                found.append(node)

    Collect()(node)
    return found


def _parse_plpgsql(definition: str) -> Any:
    """Return the syntax tree, with other types in place of those of the schema "jobs"."""
    for pattern, replacement in _TYPES:
        definition = pattern.sub(replacement, definition)
    return pglast.parse_plpgsql(definition)


def _variables(parsed: Any) -> dict[str, str]:
    """The types of the parameters and variables of a PL/pgSQL function."""
    variables = {}
    for datum in itertools.chain.from_iterable(_find(parsed, "datums")):
        if variable := datum.get("PLpgSQL_var"):
            variables[variable["refname"]] = variable["datatype"]["PLpgSQL_type"]["typname"]
        elif record := datum.get("PLpgSQL_rec"):
            variables[record["refname"]] = "record"
    return variables


def _find(tree: Any, key: str) -> Iterator[Any]:
    """All values of a key in the JSON of a PL/pgSQL function."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            else:
                yield from _find(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _find(value, key)


def _statements(parsed: Any) -> Iterator[str]:
    """The SQL of a PL/pgSQL function: statements, and expressions as SELECT."""
    for expression in _find(parsed, "PLpgSQL_expr"):
        query, mode = expression["query"], expression["parseMode"]
        if mode == 0:
            yield query
        elif mode == 2:
            yield f"SELECT {query}"
        else:  # variable := expression
            yield "SELECT " + query.partition(":=")[2]
    for dynamic in _find(parsed, "PLpgSQL_stmt_dynexecute"):
        query = next(_find(dynamic["query"], "query"))
        for constant in _nodes(pglast.parse_sql(f"SELECT {query}")[0].stmt, ast.String):
            if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", constant.sval):
                yield _filled(constant.sval)


def _counted_statements(parsed: Any) -> Iterator[str]:
    """The statements of a PL/pgSQL function before GET DIAGNOSTICS."""
    for key in ("body", "then_body", "else_body"):
        for body in _find(parsed, key):
            for statement, following in itertools.pairwise(body):
                if "PLpgSQL_stmt_getdiag" in following and "PLpgSQL_stmt_execsql" in statement:
                    yield statement["PLpgSQL_stmt_execsql"]["sqlstmt"]["PLpgSQL_expr"]["query"]


def _is_upsert(sql: str, catalog: Catalog) -> bool:
    """Whether a statement is an INSERT … SELECT … ON CONFLICT."""
    return any(
        insert.onConflictClause and not insert.selectStmt.valuesLists
        for raw in pglast.parse_sql(sql)
        if _tables(raw.stmt, catalog)
        for insert in _nodes(raw.stmt, ast.InsertStmt)
    )


def _filled(template: str) -> str:
    """Fill the placeholders of format() in the text of a statement."""
    template = re.sub(r"\(%(\d\$)?s\)", f"({_TARGETS})", template)
    template = re.sub(r"%(\d\$)?s(?= \()", "", template)  # [NOT] MATERIALIZED
    template = re.sub(r"%s(?=\n *WHERE )", "", template)  # FROM
    template = template.replace("jobs.%I", "jobs.job_progress").replace("%I", "queued")
    template = template.replace("%L", "NULL")
    return re.sub(r"%(\d\$)?s", "true", template)  # conditions
