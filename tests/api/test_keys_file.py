"""Which lines a file of keys may have, and what is said of the others."""

from pathlib import Path

import pytest

from pensieve.api.keys_file import (
    MAX_KEYS,
    KeysFileError,
    NamedKey,
    is_open_to_others,
    parse_keys,
    read_keys_file,
)


def test_a_line_names_a_key_and_its_limits() -> None:
    text = """
    # people
    alice sk-alice-1 concurrent=4 share=2.5

    bob\tsk-bob-#-2  shared
    c-3.po sk-c3po-4 share=0.5 shared concurrent=1
    """
    assert parse_keys(text) == [
        NamedKey("alice", "sk-alice-1", 4, 2.5),
        NamedKey("bob", "sk-bob-#-2", is_shared=True),
        NamedKey("c-3.po", "sk-c3po-4", 1, 0.5, is_shared=True),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "1 to 256 keys, and has 0"),
        ("alice", "a line is `name key"),
        ("al/ice sk-alice-1", "a name has"),
        ("alice short", "the key of alice must have 8"),
        ("alice schlüssel-1", "the key of alice must have 8"),
        ("alice sk-alice-1 concurrent=0", "concurrent must be"),
        ("alice sk-alice-1 concurrent=1.5", "concurrent must be"),
        ("alice sk-alice-1 concurrent=1 concurrent=2", "each at most once"),
        ("alice sk-alice-1 share=0", "share must lie"),
        ("alice sk-alice-1 share=1000", "share must lie"),
        ("alice sk-alice-1 share=-1", "limits are"),
        ("alice sk-alice-1 public", "limits are"),
        ("alice sk-alice-1\nbob sk-alice-1", "two lines have the same key"),
        ("alice sk-alice-1\nalice sk-alice-2", "two lines have the same name"),
        ("\n".join(f"n{i} sk-key-{i:04}" for i in range(MAX_KEYS + 1)), "1 to 256 keys"),
    ],
)
def test_a_wrong_line_is_named_and_its_key_is_not(line: str, problem: str) -> None:
    with pytest.raises(KeysFileError) as caught:
        parse_keys(line)
    assert problem in str(caught.value)
    assert "sk-alice" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysFileError, match="keys: No such file"):
        read_keys_file(f"{tmp_path}/keys")
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    with pytest.raises(KeysFileError, match="keys: it is no text"):
        read_keys_file(f"{tmp_path}/keys")


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o400, False), (0o640, True), (0o602, True)])
def test_a_file_that_others_may_use_is_noticed(tmp_path: Path, mode: int, is_open: bool) -> None:
    (tmp_path / "keys").touch(mode)
    (tmp_path / "keys").chmod(mode)
    assert is_open_to_others(f"{tmp_path}/keys") == is_open
