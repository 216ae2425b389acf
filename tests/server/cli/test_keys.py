"""``megasam keys`` and a solve on a server that wants them, as commands in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from megasam_server.cli.app import app
from megasam_shared.keys import new_key_pair
from typer.testing import CliRunner

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def megasam(tmp_path, monkeypatch):
    """Run ``megasam``; returns (output, error or None)."""
    for name in ("MEGASAM_SERVER_KEY", "MEGASAM_CLIENT_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEGASAM_CONFIG_DIR", str(tmp_path / "config"))

    def run(*arguments: str) -> tuple[str, str | None]:
        result = CliRunner().invoke(app, list(arguments))
        return result.output, getattr(result.exception, "code", None)

    return run


def test_a_client_is_allowed_listed_and_revoked(megasam, tmp_path):
    assert "no keys" in megasam("keys", "list")[0]
    own = re.match("[0-9a-f]{64}", megasam("keys", "new")[0])[0]
    server = re.match("[0-9a-f]{64}", megasam("keys", "new", "--server")[0])[0]
    assert megasam("keys", "new")[1] == "key_exists"
    key = new_key_pair().public
    assert "allowed" in megasam("keys", "allow", "anna@ws12", key)[0]
    assert megasam("keys", "allow", "anna@ws12", key)[1] is None
    assert megasam("keys", "allow", "ben", key)[1] == "key_allowed_already"
    assert megasam("keys", "allow", "anna@ws12", own)[1] == "client_name_taken"
    assert megasam("keys", "allow", "an na", own)[1] == "client_name_malformed"
    assert megasam("keys", "allow", "ben", "12")[1] == "key_malformed"
    megasam("keys", "trust", "gpu01", server)
    listed = [line.split() for line in megasam("keys", "list")[0].splitlines()]
    assert [line[:3] for line in listed] == [
        ["this", "client", own],
        ["this", "server", server],
        ["allowed", "client", key],
        ["trusted", "server", server],
    ]
    assert listed[2][3] == "anna@ws12" and listed[3][3] == "tcp://gpu01:5599"
    megasam("keys", "revoke", "anna@ws12")
    assert megasam("keys", "revoke", "anna@ws12")[1] == "client_unknown"
    assert (tmp_path / "config" / "allowed_clients").read_text() == ""


def test_serve_refuses_to_be_reached_without_curve(megasam, tmp_path):
    state = str(tmp_path / "state")
    for address in ("0.0.0.0", "tcp://10.0.0.1:5599", "gpu01:5599"):
        assert megasam("serve", "--bind", address, "--state", state)[1] == "curve_required"
    assert megasam("serve", "--bind", "0.0.0.0", "--curve", "--state", state)[1] == "key_not_found"
    assert megasam("serve", "--map-prefix", "Z:/shows", "--state", state)[1] == "prefix_malformed"


def test_solve_on_an_encrypted_server(megasam, tmp_path):
    """Server reached by the machine's every address; key, address and plate as an artist has them."""
    server_folder = tmp_path / "server"
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "MEGASAM_JOB_FUNCTION": "tests.server.service.job_functions:run_job",
    }
    server_key = megasam("keys", "new", "--server", "--keys", str(server_folder))[0][:64]
    key = megasam("keys", "new")[0][:64]
    command = [sys.executable, "-c", "from megasam_server.cli import main; main()"]
    command += ["serve", "--bind", "0.0.0.0:0"]
    command += ["--curve", "--keys", str(server_folder), "--state", str(tmp_path / "state")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        port = process.stdout.readline().rsplit(":", 1)[1].strip()
        (tmp_path / "plate").mkdir()
        for number in (1, 2):
            (tmp_path / "plate" / f"p.{number}.png").write_bytes(b"solve")
        solve = ("solve", str(tmp_path / "plate"), "--out", str(tmp_path / "out"), "--json")
        solve += ("--server", f"127.0.0.1:{port}", "--server-key", server_key)
        assert megasam(*solve)[1] == "server_refuses_key"
        megasam("keys", "allow", "anna", key, "--keys", str(server_folder))
        output, error = megasam(*solve)
        assert error is None, output
        assert json.loads(output.splitlines()[-1])["event"] == "result"
        assert (tmp_path / "out" / "camera_extrinsics.json").exists()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        process.stdout.close()
