"""Splitting SQL text into statements."""

import pytest

from jobs_grpc.db.sql_statements import split_statements


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        ("", []),
        ("-- nothing; here\n", []),
        ("SELECT 1", ["SELECT 1"]),
        ("-- First;\n\n-- it's\nSELECT 1;\n  SELECT 2;\n", ["SELECT 1", "SELECT 2"]),
        ("SELECT 1 -- one;\n, 2; SELECT 3;", ["SELECT 1 -- one;\n, 2", "SELECT 3"]),
        ("SELECT 'a;''b', \";\"; SELECT 2", ["SELECT 'a;''b', \";\"", "SELECT 2"]),
        ("DO $$ BEGIN; END $$; SELECT 2", ["DO $$ BEGIN; END $$", "SELECT 2"]),
        ("DO $a$ SELECT $$;$$; $a$; SELECT 2", ["DO $a$ SELECT $$;$$; $a$", "SELECT 2"]),
        (
            "CREATE FUNCTION f() RETURNS int\nbegin  atomic\n"
            "SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3",
            [
                "CREATE FUNCTION f() RETURNS int\nbegin  atomic\n"
                "SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
                "SELECT 3",
            ],
        ),
        ('SELECT weekend, "END" FROM t; SELECT 2', ['SELECT weekend, "END" FROM t', "SELECT 2"]),
    ],
)
def test_text_is_split_into_statements(sql: str, statements: list[str]) -> None:
    assert split_statements(sql) == statements
