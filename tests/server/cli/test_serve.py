"""``megasam serve`` and ``megasam status`` as processes: config, logs, numbers, the unit."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from megasam_server.service.options import ServerOptions
from megasam_server.service.server import SolverServer
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from prometheus_client.parser import text_string_to_metric_families

from tests.server.cli.serve_process import StagedJob, megasam, serving

CONFIG = """
[server]
drain_minutes = 0
[queue]
limit = 7
[log]
file = "log/server.log"
json = true
[metrics]
bind = "127.0.0.1:0"
"""


def read_numbers(address: str) -> dict[tuple[str, str], float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        text = page.read().decode()
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_server_from_a_config_file_says_how_it_is(tmp_path):
    (tmp_path / "server.toml").write_text(CONFIG)
    log = tmp_path / "log" / "server.log"
    with (
        serving(tmp_path, "--config", "server.toml") as server,
        SolverClient(server.address, name="test") as client,
    ):
        client.connect(10)
        first = StagedJob(tmp_path, client, "first")
        waiting = StagedJob(tmp_path, client, "waiting")
        first.end("plate")
        first.wait_until_in("tracking")

        # Once for people, once for programs.
        shown = megasam(tmp_path, "status", "--server", server.address, "--once")
        assert shown.returncode == 0, shown.stderr
        assert "1 running on the CPU, 1 waiting" in shown.stdout
        assert "Camera tracking 1/4" in shown.stdout and "queued" in shown.stdout
        said = megasam(tmp_path, "status", "--server", server.address, "--json")
        fields = json.loads(said.stdout)
        assert (fields["running"], fields["queued"], fields["draining"]) == (1, 1, False)
        assert fields["running_jobs"][0]["stage"] == "tracking"
        assert "the CPU in process" in fields["running_jobs"][0]["where"]
        assert {job["state"] for job in fields["jobs"]} == {"running", "queued"}
        assert fields["counters"]["uploaded_bytes"] > 0 and fields["uptime"] > 0

        lines = [json.loads(line) for line in log.read_text().splitlines()]
        (address,) = [
            line["message"].split("http://")[1].removesuffix("/metrics")
            for line in lines
            if "Prometheus" in line["message"]
        ]
        numbers = read_numbers(address)
        assert numbers["megasam_jobs", "running"] == numbers["megasam_jobs", "queued"] == 1
        assert numbers["megasam_uploaded_bytes_total", ""] > 0
        assert numbers["megasam_clients", ""] >= 1 and numbers["megasam_draining", ""] == 0
        first.end()
        waiting.end()
        assert client.wait(first.id, timeout=15).state == "done"
        assert client.wait(waiting.id, timeout=15).state == "done"
        assert read_numbers(address)["megasam_ended_jobs_total", "done"] == 2
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        with pytest.raises(urllib.error.URLError):
            read_numbers(address)
    assert server.log == ""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    of_first = [(line["level"], line["message"]) for line in lines if line["job"] == first.id]
    messages = [message for _, message in of_first]
    assert messages[0].startswith("'first' queued by") and "is done" in messages
    # What the worker wrote is in its job's folder, and here with its level.
    assert ("info", "printed by the worker") in of_first
    assert ("warning", "megasam_server.tests: warned by the worker") in of_first
    own = (tmp_path / "state" / "jobs" / first.id / "worker.log").read_text()
    assert "printed by the worker" in own and "warned by the worker" in own
    assert {line["job"] for line in lines} == {None, first.id, waiting.id}


def test_live_table_follows_and_ends_with_ctrl_c(tmp_path):
    pty = pytest.importorskip("pty")

    from tests.server.cli.serve_process import MEGASAM, environment

    with serving(tmp_path) as server, SolverClient(server.address, name="test") as client:
        client.connect(10)
        job = StagedJob(tmp_path, client, "first")
        job.wait_until_in("plate")
        screen, terminal = pty.openpty()
        table = subprocess.Popen(
            [*MEGASAM, "status", "--server", server.address, "--every", "0.2"],
            env=environment(tmp_path, TERM="xterm"),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        seen = b""
        try:
            for words in (b"Reading plate", b"Camera tracking", b"done"):
                deadline = time.monotonic() + 10
                while words not in seen:
                    assert time.monotonic() < deadline, seen[-2000:]
                    seen += os.read(screen, 1 << 16)
                job.end(*(("plate",) if words == b"Reading plate" else ()))
            table.send_signal(signal.SIGINT)
            while True:
                try:
                    if not os.read(screen, 1 << 16):
                        break
                except OSError:  # how Linux says that the other end is closed
                    break
            assert table.wait(10) == 0
        finally:
            table.kill()
            table.wait()
            os.close(screen)
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    # Without a file the log goes to standard error, in words.
    assert f"INFO {job.id} runner: starts on the CPU" in server.log
    assert "INFO - cli.serve: listening on tcp://127.0.0.1" in server.log


def test_log_file_rotates(tmp_path):
    import logging

    from megasam_server.service.server_log import JobLog, LogOptions, start_log

    stop = start_log(LogOptions(tmp_path / "server.log", rotate_bytes=2000, rotations=2))
    log = JobLog(logging.getLogger("megasam_server.service.runner"), "a" * 32)
    for number in range(100):
        log.info("line %d \x1b[31m\nforged", number)
    stop()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("server.log", "server.log.1", "server.log.2")
    ]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    newest = [*(tmp_path / "server.log.1").read_text().splitlines()]
    newest += (tmp_path / "server.log").read_text().splitlines()
    assert newest[-1].endswith(f"INFO {'a' * 32} runner: line 99 \\x1b[31m\\x0aforged")


def test_numbers_are_for_this_machine_only(tmp_path):
    for bind in ("0.0.0.0:0", "gpu01:9599", "127.0.0.1", "nonsense", "[::]:0"):
        options = ServerOptions(
            state=tmp_path / "state", bind="tcp://127.0.0.1:0", gpus=["cpu"], metrics=bind
        )
        with pytest.raises(MegasamError) as caught:
            SolverServer(options)
        assert caught.value.code == "metrics_not_loopback" and bind in caught.value.message
    ended = megasam(
        tmp_path, "serve", "--bind", "127.0.0.1:0", "--gpus", "cpu", "--metrics", "0.0.0.0:0"
    )
    assert ended.returncode == 2 and "loopback" in ended.stderr


def test_printed_unit_and_config_can_be_used_as_they_are(tmp_path):
    printed = megasam(tmp_path, "serve", "--print-config")
    config = tmp_path / "the server.toml"
    config.write_text(printed.stdout)
    ended = megasam(tmp_path, "serve", "--config", str(config), "--systemd-unit")
    assert ended.returncode == 0, ended.stderr
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(ended.stdout)
    service = unit["Service"]
    command = shlex.split(service["ExecStart"])
    assert Path(command[0]).is_absolute() and command[-2:] == ["--config", str(config)]
    # Its workers must outlive the signal that starts the drain, and systemd must wait for it.
    assert service["KillMode"] == "mixed" and int(service["TimeoutStopSec"]) > 30 * 60
    missing = megasam(tmp_path, "serve", "--config", "none.toml", "--systemd-unit")
    assert missing.returncode == 2 and "none.toml" in missing.stderr


def test_command_line_overrides_the_file_and_mistakes_end_with_code_2(tmp_path):
    (tmp_path / "config").mkdir()
    # The file in the config folder is read without being named.
    (tmp_path / "config" / "server.toml").write_text('[server]\nstate = "x"\n[log]\njson = true\n')
    with serving(tmp_path) as server:
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    assert json.loads(server.log.splitlines()[0])["message"].startswith("listening on")
    assert (tmp_path / "state").is_dir() and not (tmp_path / "config" / "x").exists()
    (tmp_path / "config" / "server.toml").write_text("[server]\nstat = 1\n")
    ended = megasam(tmp_path, "serve")
    assert ended.returncode == 2 and "Did you mean server.state?" in ended.stderr
