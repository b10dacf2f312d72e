"""Splits SQL text into statements."""

import re

import asyncpg

# What can contain a semicolon that ends no statement, and what changes the nesting of the body of a
# SQL-standard function: BEGIN ATOMIC … END, in which each CASE has an END as well.
_TOKEN = re.compile(
    r"""
      (?P<skipped> --[^\n]* | '(?:[^']|'')*' | "[^"]*" | \$(?P<tag>\w*)\$ .*? \$(?P=tag)\$ )
    | (?P<end_of_statement> ; )
    | (?P<opening> \b BEGIN \s+ ATOMIC \b | \b CASE \b )
    | (?P<closing> \b END \b )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_COMMENTS = re.compile(r"(?:\s|--[^\n]*)*")


def split_statements(sql: str) -> list[str]:
    """Return the statements of `sql`, without the comments before them and the semicolons.

    Understands the SQL of this package: no block comments, and no strings with backslash escapes.
    """
    statements = []
    start = depth = 0
    for token in _TOKEN.finditer(sql):
        if token["opening"]:
            depth += 1
        elif token["closing"]:
            depth -= 1
        elif token["end_of_statement"] and not depth:
            statements.append(sql[start : token.start()])
            start = token.end()
    statements.append(sql[start:])
    return [text for part in statements if (text := _COMMENTS.sub("", part, count=1).strip())]


async def execute_each(connection: asyncpg.Connection, sql: str) -> None:
    """Run the statements one by one: Citus would send all of them to its nodes for each."""
    for statement in split_statements(sql):
        await connection.execute(statement)
