"""The session settings of SQL functions, and the tenant for which they run.

Each set of settings stands here once, under the name that files use.

In the SQL of a function, the line `-- settings: lookup, nested loops` stands for the SET clauses of
these sets. Functions that calls and maintenance use also get `_ENTRY`. With `tenant`, `_SET_TENANT`
is inserted as the first statement; the defaults of variables are evaluated before it.

An internal function inherits the settings of its caller, but PostgreSQL keeps the plans of its
queries for all callers. So it names the sets that its own queries need.
"""

import re

# Without it, a caller's search_path decides which operators and functions run.
_ENTRY = "SET search_path = pg_catalog, pg_temp"

# For the transaction of the call only: row-level security shows no rows of another tenant, and the
# session keeps no state.
_SET_TENANT = "    PERFORM set_config('app.tenant_id', p_tenant_id, true);\n"

# Lookups by key use an index, also in a plan that was made while the tables were empty.
_INDEX = "SET enable_seqscan = off"

# Planning takes longer than reading a few rows by an index.
_LOOKUP = f"{_INDEX}\nSET plan_cache_mode = force_generic_plan"

_SETS = {
    "index": _INDEX,
    "lookup": _LOOKUP,
    # The planner must use the index that delivers the order of the page. If a sort remains, such as
    # that of the page itself, it looks so costly that the query is compiled: 20 to 150 ms per call.
    "page": f"{_LOOKUP}\nSET enable_sort = off\nSET jit = off",
    # A few rows of a table that may have millions are looked up one by one.
    "nested loops": "SET enable_hashjoin = off\nSET enable_mergejoin = off",
    # Many rows are read in the order of their pages, and each page once. One by one in the order of
    # an index, they take three times as long.
    "bitmap scan": "SET enable_indexscan = off",
    # A table is read once, and each row looked up in a small array.
    "hash join": "SET enable_mergejoin = off\nSET enable_nestloop = off",
    # Two tables are read in one order.
    "merge join": "SET enable_hashjoin = off\nSET enable_nestloop = off",
    # A call uses one core, however much it reads.
    "no parallel query": "SET max_parallel_workers_per_gather = 0",
    # The plan knows the limit and the range of keys.
    "custom plan": "SET plan_cache_mode = force_custom_plan",
    # A limited query must not read all rows to sort them, but read in the order of an index.
    "no sort": "SET enable_sort = off",
    # The rows that a tenant may see must not be reused for another.
    "no memoize": "SET enable_memoize = off",
    "no jit": "SET jit = off",
    # For locks other than the job lock: see lock_job_with_timeout.
    "lock timeout": "SET lock_timeout = '1s'",
    # Shorter than deadlock_timeout: in a deadlock, the other transaction continues.
    "short lock timeout": "SET lock_timeout = '100ms'",
}

_LINE = re.compile(r"^-- settings: (.+)$", re.MULTILINE)
_BEGIN = re.compile(r"^BEGIN\n", re.MULTILINE)


def with_settings(sql: str, *, is_entry: bool) -> str:
    """Return the SQL of a function with what the line of settings stands for.

    Raises KeyError for an unknown set, and ValueError if the tenant can't be set.
    """
    entry = [_ENTRY] if is_entry else []
    line = _LINE.search(sql)
    if line is None:
        return sql
    names = line[1].split(", ")
    if "tenant" in names:
        names.remove("tenant")
        sql, count = _BEGIN.subn(lambda begin: begin[0] + _SET_TENANT, sql, count=1)
        if not count:
            raise ValueError("`-- settings: tenant` needs a line BEGIN")
    return _LINE.sub("\n".join([*entry, *(_SETS[name] for name in names)]), sql, count=1)
