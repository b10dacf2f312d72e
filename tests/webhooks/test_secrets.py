"""Master keys: the file, and the secrets that are derived from them."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_grpc.webhooks.secrets import (
    MalformedKeys,
    MasterKeys,
    MasterKeysFile,
    UnknownKey,
    encoded,
    load_master_keys,
)
from tests.support.webhooks import encoded_key, write_keys

KEY = base64.b64encode(b"k" * 32).decode()
SHORT = base64.b64encode(b"k" * 31).decode()


def test_first_key_of_the_file_is_for_new_secrets(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# comment\n\n2026-12 {KEY}\n  2026-01   {KEY}  \n")
    path.chmod(0o640)

    keys = load_master_keys(path)

    assert keys.newest_id == "2026-12"
    assert keys.secret("t", "w", 1, "2026-01") == keys.secret("t", "w", 1, "2026-12")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "has no keys"),
        (b"k1 \xff", "is not UTF-8"),
        ("# only a comment\n", "has no keys"),
        (f"{KEY}\n", "line 1: must be an id"),
        (f"k1 {KEY} more\n", "line 1: must be an id"),
        (f"k+1 {KEY}\n", "line 1: must be an id"),
        (f"{'k' * 65} {KEY}\n", "line 1: must be an id"),
        (f"k1 {KEY}\nk2 {KEY[:-1]}\n", "line 2: the key is not base64"),
        (f"k1 {'ü' * 44}\n", "line 1: the key is not base64"),
        ("k1 not*base64\n", "line 1: the key is not base64"),
        (f"k1 {SHORT}\n", "line 1: the key has 31 bytes, and must have 32 or more"),
        (f"k1 {KEY}\nk1 {KEY}\n", "line 2: the id k1 is in an earlier line"),
        (f"k1 {KEY}\n#" + "x" * 65536, "has more than 65536 bytes"),
    ],
)
def test_error_does_not_contain_keys_when_file_is_malformed(
    tmp_path: Path, content: str | bytes, problem: str
) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o600)

    with pytest.raises(MalformedKeys) as raised:
        load_master_keys(path)

    assert problem in str(raised.value)
    assert KEY[:-1] not in str(raised.value)
    assert SHORT not in str(raised.value)


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o601])
def test_file_that_every_user_can_access_is_rejected(tmp_path: Path, mode: int) -> None:
    path = write_keys(tmp_path / "keys", "k1")
    path.chmod(mode)

    with pytest.raises(MalformedKeys, match="every user can access"):
        load_master_keys(path)


def test_fifo_in_place_of_the_file_is_rejected(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys", 0o600)

    with pytest.raises(MalformedKeys, match="is not a regular file"):
        load_master_keys(tmp_path / "keys")


def test_changed_file_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = write_keys(tmp_path / "keys", "old")
    file = MasterKeysFile(path)
    old = file.current()
    assert file.current() is old

    write_keys(tmp_path / "new", "new", "old").replace(path)

    assert file.current().newest_id == "new"
    assert "using the new keys" in caplog.text
    assert encoded_key("new") not in caplog.text


def test_last_valid_keys_are_used_when_file_becomes_malformed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_keys(tmp_path / "keys", "old")
    file = MasterKeysFile(path)
    (tmp_path / "new").write_text("malformed\n")
    (tmp_path / "new").chmod(0o600)
    (tmp_path / "new").replace(path)

    assert [file.current().newest_id for _ in range(2)] == ["old", "old"]
    assert caplog.text.count("the previous keys stay in use") == 1
    path.unlink()
    assert file.current().newest_id == "old"
    write_keys(path, "new")
    assert file.current().newest_id == "new"


def test_derivation_does_not_change() -> None:
    """A change would break each receiver."""
    keys = MasterKeys({"k": b"k" * 32})

    assert encoded(keys.secret("acme", "wh_1", 1, "k")) == (
        "whsec_V2fH0EhdRcg+dDPiq05XlK2HNMM5Ie1z4K9K5j+6TRQ="
    )


_INPUTS = st.tuples(
    st.text(max_size=2), st.text(max_size=2), st.integers(1, 30), st.sampled_from("ab")
)


@given(_INPUTS, _INPUTS)
def test_secrets_differ_when_any_input_differs(one: Any, other: Any) -> None:
    keys = MasterKeys({"a": b"a" * 32, "b": b"b" * 32})

    assert (keys.secret(*one) == keys.secret(*other)) == (one == other)
    assert len(keys.secret(*one)) == 32


def test_previous_secret_signs_while_it_is_in_use() -> None:
    keys = MasterKeys({"new": b"n" * 32, "old": b"o" * 32})
    row = {"secret_number": 2, "key_id": "new", "previous_key_id": "old"}

    assert keys.signing_secrets("t", "w", row) == [
        keys.secret("t", "w", 2, "new"),
        keys.secret("t", "w", 1, "old"),
    ]
    for previous in (None, "removed"):
        assert len(keys.signing_secrets("t", "w", row | {"previous_key_id": previous})) == 1
    with pytest.raises(UnknownKey, match="lacks the key removed"):
        keys.signing_secrets("t", "w", row | {"key_id": "removed"})
