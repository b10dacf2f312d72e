"""`jobs-grpc context`, and what commands take from a context."""

import json
from pathlib import Path

import pytest

from tests.support.cli import Shell
from tests.support.server import Server
from tests.support.world import World


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell whose environment names neither a server nor a caller."""
    for name in ("SERVER", "TENANT", "USER", "TOKEN", "TOKEN_FILE", "CONTEXT"):
        monkeypatch.delenv(f"JOBS_{name}", raising=False)
    return Shell(capsys)


def _write(file: Path, content: str, mode: int) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(content)
    file.chmod(mode)


def _mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


async def test_command_uses_the_context_in_use(world: World, shell: Shell) -> None:
    await world.add_devices(1)
    await world.create()
    address = world.server.address

    saved = await shell("context", "set", "a", "--server", address, "--tenant", world.tenant)
    await shell("context", "set", "b", "--server", address, "--tenant", "other")
    in_a = await shell("list", "-o", "csv", "--columns", "job")
    used = await shell("context", "use", "b")
    in_b = await shell("list", "-o", "csv", "--columns", "job")
    named = await shell("list", "-o", "csv", "--columns", "job", "--context", "a")

    assert (saved.code, used.out) == (0, f"using b: server {address}, tenant other\n")
    assert (in_a.unquoted, in_b.unquoted, named.unquoted) == (
        "job_id\nj\n",
        "job_id\n",
        "job_id\nj\n",
    )


async def test_set_changes_and_unsets_settings(
    shell: Shell, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.txt").write_text("secret")
    monkeypatch.chdir(tmp_path)
    await shell("context", "set", "a", "--tenant", "t", "--token-env", "TOKEN", "--tls")
    await shell("context", "set", "a", "--user", "u", "--token-file", "t.txt", "--unset", "tls")

    shown = json.loads((await shell("context", "show", "a", "--json")).out)

    token = shown.pop("token")
    assert shown == {"tenant": "t", "user": "u"}
    assert token.startswith("/")
    assert token.endswith("/t.txt")
    assert _mode(config_file) == 0o600


@pytest.mark.parametrize("token", ["eyJhbGciOi.eyJpc3.secret", "secret" * 100])
async def test_commands_do_not_print_a_token_that_is_given_as_the_name_of_a_file(
    shell: Shell, config_file: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    _write(config_file, f'current = "b"\n[contexts.b]\ntoken_file = "/{token}"\n', mode=0o600)

    results = [
        await shell("context", "set", "a", "--token-file", token),
        await shell("list"),
        await shell("context", "list"),  # "set" has stored nothing
        await shell("context", "show", "b"),
        await shell("list", "--token", token),
        await shell("list", f"--token={token}"),
    ]
    monkeypatch.setenv("JOBS_TOKEN_FILE", token)
    results += [await shell("list"), await shell("context", "show", "--json")]

    assert [result.code for result in results] == [2, 2, 0, 0, 2, 2, 2, 0]
    assert "secret" not in "".join(result.out + result.err for result in results)
    assert "can't read the token file of --token-file: " in results[0].err
    assert len(results[2].out.splitlines()) == 2
    assert "can't read the token file of context b: " in results[1].err
    assert "can't read the token file of JOBS_TOKEN_FILE: " in results[6].err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--tls=TOKEN"], "argument --tls/--no-tls: takes no value"),
        (["--tls", "TOKEN"], "unrecognized argument after --tls"),
        (["--token-env", "TOKEN"], "token_env must be the name of a variable"),
    ],
    ids=str,
)
async def test_set_does_not_print_or_store_a_token_that_is_given_as_an_argument(
    shell: Shell, option: list[str], message: str
) -> None:
    argv = [text.replace("TOKEN", "eyJhbGciOi.eyJpc3.secret") for text in option]

    result = await shell("context", "set", "a", *argv)

    assert (result.code, "secret" in result.out + result.err) == (2, False)
    assert message in result.err
    assert json.loads((await shell("context", "list", "-o", "json")).out) == {"contexts": []}


async def test_set_leaves_no_file_behind_when_the_file_cannot_be_replaced(
    shell: Shell, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", fail)

    saved = await shell("context", "set", "a", "--tenant", "t")

    assert saved.err == f"jobs-grpc: can't write {config_file}: Operation not permitted\n"
    assert list(config_file.parent.iterdir()) == []


async def test_command_works_without_a_home(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", _no_home)
    monkeypatch.setenv("JOBS_SERVER", server.address)

    assert (await shell("health")).out == "SERVING\n"
    failed = await shell("context", "set", "prod", "--tenant", "acme")
    assert (failed.code, failed.err) == (
        1,
        "jobs-grpc: the user has no home folder; set XDG_CONFIG_HOME\n",
    )


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


async def test_command_names_a_file_that_is_not_toml(shell: Shell, config_file: Path) -> None:
    _write(config_file, "current = ", mode=0o644)

    result = await shell("list")

    assert result.code == 2
    assert result.err.startswith(f"jobs-grpc: {config_file}: Invalid value")
