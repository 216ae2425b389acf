"""Key files, lists of keys, and which keys a client uses for which server."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megasam_shared.errors import MegasamError
from megasam_shared.keys import (
    KeyList,
    check_client_name,
    check_key,
    new_key_pair,
    read_key_pair,
    write_key_pair,
)
from megasam_shared.server_keys import full_address, is_loopback, keys_for, known_servers

posix = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")


def code_of(call, *args, **kwargs) -> str:
    with pytest.raises(MegasamError) as caught:
        call(*args, **kwargs)
    return caught.value.code


def test_key_file_is_private_and_never_overwritten(tmp_path):
    path, pair = tmp_path / "new" / "client.key", new_key_pair()
    write_key_pair(path, pair)
    assert read_key_pair(path) == pair
    assert pair.secret not in repr(pair)
    assert code_of(write_key_pair, path, new_key_pair()) == "key_exists"
    assert read_key_pair(path) == pair
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@posix
def test_files_that_others_can_read_or_change_are_refused(tmp_path):
    path = tmp_path / "client.key"
    write_key_pair(path, new_key_pair())
    path.chmod(0o640)
    assert code_of(read_key_pair, path) == "key_not_private"
    allowed = KeyList(tmp_path / "allowed")
    allowed.add("anna", new_key_pair().public)
    allowed.path.chmod(0o646)
    assert code_of(allowed.read) == "key_not_private"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"public_key": 1}', b"null"])
def test_file_that_is_no_key(tmp_path, content):
    path = tmp_path / "client.key"
    path.write_bytes(content)
    path.chmod(0o600)
    assert code_of(read_key_pair, path) == "key_unreadable"
    assert code_of(read_key_pair, tmp_path / "none") == "key_not_found"


def test_list_keeps_comments_and_changes_one_entry(tmp_path):
    known = KeyList(tmp_path / "allowed")
    assert known.read() == {} and not known.remove("anna")
    first, second, third = (new_key_pair().public for _ in range(3))
    known.path.write_text(f"# artists\nanna {first}   # room 4\n\nben {second.upper()}\n")
    assert known.read() == {"anna": first, "ben": second}
    known.add("anna", third)
    assert known.read() == {"anna": third, "ben": second}
    assert known.remove("ben")
    assert known.read() == {"anna": third}
    assert known.path.read_text().startswith("# artists\n")


@pytest.mark.parametrize("line", ["anna", "anna 12", "anna KEY more", "anna KEY\nanna KEY"])
def test_list_that_is_not_understood_names_the_line_and_is_not_rewritten(tmp_path, line):
    key = new_key_pair().public
    known = KeyList(tmp_path / "allowed")
    known.path.write_text(text := f"ben {key}\n{line.replace('KEY', key)}\n")
    with pytest.raises(MegasamError) as caught:
        known.read()
    assert caught.value.code == "key_list_unreadable" and "Line" in caught.value.message
    assert code_of(known.add, "cleo", key) == code_of(known.remove, "ben") == "key_list_unreadable"
    assert known.path.read_text() == text


@given(st.text(max_size=80))
def test_words_that_are_no_key_or_name_are_refused(text):
    for check in (check_key, check_client_name):
        try:
            checked = check(text)
        except MegasamError:
            continue
        assert checked.isascii() and " " not in checked and len(checked) <= 64


@pytest.mark.parametrize(
    "text, address",
    [
        ("gpu01", "tcp://gpu01:5599"),
        ("gpu01:6000", "tcp://gpu01:6000"),
        ("tcp://gpu01", "tcp://gpu01:5599"),
        ("tcp://10.0.0.7:5600", "tcp://10.0.0.7:5600"),
        ("localhost", "tcp://127.0.0.1:5599"),
        ("[::1]", "tcp://[::1]:5599"),
        ("[fe80::1]:7", "tcp://[fe80::1]:7"),
    ],
)
def test_addresses_are_completed(text, address):
    assert full_address(text) == address


@pytest.mark.parametrize("text", ["", "http://gpu01", "tcp://", "gpu 01", "gpu01/x", "ipc://a"])
def test_what_is_no_address(text):
    assert code_of(full_address, text) == "server_address_invalid"


def test_only_addresses_of_this_machine_are_loopback():
    for address in ("tcp://127.0.0.1:1", "tcp://127.8.8.8:1", "tcp://[::1]:1"):
        assert is_loopback(address)
    for host in ("0.0.0.0", "*", "10.1.2.3", "[::]", "gpu01", "127.0.0.1;0.0.0.0", "eth0"):
        assert not is_loopback(f"tcp://{host}:1")


@pytest.fixture
def config(tmp_path, monkeypatch):
    for name in ("MEGASAM_SERVER_KEY", "MEGASAM_CLIENT_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEGASAM_CONFIG_DIR", str(tmp_path))
    return tmp_path


def test_keys_for_a_server_come_from_option_variable_and_known_servers(config, monkeypatch):
    own, *servers = (new_key_pair() for _ in range(4))
    assert keys_for("tcp://127.0.0.1:5599") is None
    assert code_of(keys_for, "tcp://gpu01:5599") == "server_key_unknown"
    known_servers().add("tcp://gpu01:5599", servers[0].public)
    assert code_of(keys_for, "gpu01") == "key_not_found"
    write_key_pair(config / "client.key", own)
    assert keys_for("gpu01").server == servers[0].public
    assert keys_for("gpu01").own == own
    monkeypatch.setenv("MEGASAM_SERVER_KEY", servers[1].public)
    assert keys_for("gpu01").server == servers[1].public
    assert keys_for("gpu01", servers[2].public).server == servers[2].public
    assert keys_for("tcp://127.0.0.1:5599").server == servers[1].public
    other = new_key_pair()
    write_key_pair(config / "other.key", other)
    monkeypatch.setenv("MEGASAM_CLIENT_KEY", str(config / "other.key"))
    assert keys_for("gpu01").own == other
    assert keys_for("gpu01", client_key=config / "client.key").own == own
    assert code_of(keys_for, "gpu01", "12") == "key_malformed"
