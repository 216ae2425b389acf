"""Which variables workers get, in theory and in a worker of a real server."""

from __future__ import annotations

from megasam_server.service.worker_environment import worker_environment
from megasam_shared.settings import SolveSettings

from tests.server.service.curve_server import CurveStudio

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s3cret",
    "MEGASAM_CLIENT_KEY": "/home/anna/client.key",
    "HTTPS_PROXY": "http://anna:s3cret@proxy",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "DB_PASSWORD": "s3cret",
    "LD_PRELOAD": "/tmp/evil.so",
}


def test_only_listed_variables_are_handed_on():
    given = SECRETS | {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1", "LC_ALL": "C", "SHOW": "abc"}
    kept = worker_environment(["SHOW"], given)
    assert kept == {k: v for k, v in given.items() if k not in SECRETS}


def test_worker_of_a_server_sees_no_secret(tmp_path, monkeypatch, make_plate):
    for name in SECRETS.keys() - {"LD_PRELOAD"}:
        monkeypatch.setenv(name, "s3cret")
    with CurveStudio(tmp_path) as studio:
        client = studio.client(studio.keys("anna"))
        plate = client.upload(make_plate("environment"))
        result = client.wait(client.submit(plate, SolveSettings()).job, timeout=20)
    seen = result.result["environment"]
    assert "PATH" in seen and "PYTHONPATH" in seen
    assert not SECRETS.keys() & set(seen)
