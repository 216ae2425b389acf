"""The config file: its default says what the server does, mistakes are named, units are right."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from megasam_server.media.picture_limits import PictureLimits
from megasam_server.service.config_file import SETTINGS, documented_default, read_config
from megasam_server.service.config_options import log_options, server_options
from megasam_server.service.options import CurveOptions, RayOptions, ServerOptions, WarmOptions
from megasam_server.service.server_log import LogOptions
from megasam_shared.errors import MegasamError


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "server.toml"
        path.write_text(text)
        return path

    return write


def test_printed_default_is_what_a_server_without_a_file_does(config):
    text = documented_default()
    path = config(text)
    assert read_config(path) == read_config(None)
    assert {f"{s}.{n}" for s, t in tomllib.loads(text).items() for n in t} - {
        "media.prefixes"
    } == set(SETTINGS)
    # Each line of settings has its comment directly before it.
    lines = text.splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        assert len(line) <= 100
        if line[:1].isalpha():
            assert before.startswith("# ")


def test_defaults_are_those_of_the_options(config):
    options = server_options(read_config(None))
    plain = ServerOptions(state=options.state)
    for name in (
        "bind",
        "curve",
        "pictures",
        "queue_limit",
        "queue_limit_per_client",
        "max_priority",
        "gpus",
        "warm",
    ):
        assert getattr(options, name) == getattr(plain, name), name
    assert options.ray is None and options.metrics is None and not options.any_checkpoints
    assert options.drain_timeout == plain.drain_timeout == 1800
    assert options.storage.cache_bytes == 50e9
    assert log_options(read_config(None).values) == LogOptions()


def test_everything_arrives_in_the_units_of_the_options(config, tmp_path):
    path = config(
        """
        [server]
        bind = "0.0.0.0"
        state = "state"
        gpus = "0, 1"
        executor = "ray"
        job_timeout_minutes = 1.5
        drain_minutes = 0
        keep_warm_minutes = 0.5
        warm_jobs = 3
        [queue]
        limit = 7
        limit_per_client = 3
        max_priority = 70
        [security]
        curve = true
        keys = "/keys"
        shared_jobs = true
        worker_environment = ["SHOW"]
        [media]
        roots = ["/mnt/shows", "plates"]
        checkpoint_roots = ["/mnt/weights"]
        [media.prefixes]
        "Z:/shows" = "/mnt/shows"
        [media.prefixes_of.anna]
        "/Volumes/x" = "x"
        [uploads]
        file_gb = 2
        [pictures]
        side = 4096
        [storage]
        keep_days = 0.5
        client_quota_gb = 10
        limit_gb = 0
        [log]
        file = "log/server.log"
        level = "debug"
        json = true
        rotate_mb = 0.5
        rotations = 2
        [metrics]
        bind = "127.0.0.1:9599"
        [ray]
        address = "10.0.0.1:6379"
        cpus = 0.5
        gpus = "0.5"
        jobs = 4
        """
    )
    read = read_config(path)
    options = server_options(read)
    assert options.bind == "tcp://0.0.0.0:5599"
    assert options.state == tmp_path / "state"
    assert options.gpus == ["0", "1"]
    assert (options.job_timeout, options.drain_timeout) == (90, 0)
    assert options.warm == WarmOptions(seconds=30, jobs=3)
    assert (options.queue_limit, options.queue_limit_per_client) == (7, 3)
    assert options.max_priority == 70
    keys = Path("/keys")
    assert options.curve == CurveOptions(keys / "server.key", keys / "allowed_clients")
    assert options.shared_jobs and options.worker_environment == ["SHOW"]
    assert options.media_roots == [Path("/mnt/shows"), tmp_path / "plates"]
    assert options.checkpoint_roots == [Path("/mnt/weights")]
    assert options.prefix_maps == {
        "*": {"Z:/shows": Path("/mnt/shows")},
        "anna": {"/Volumes/x": tmp_path / "x"},
    }
    assert options.uploads.file_bytes == 2e9 and options.pictures == PictureLimits(side=4096)
    assert (options.storage.ttl, options.storage.client_bytes) == (43200, 10e9)
    assert options.storage.all_bytes is None
    assert options.metrics == "127.0.0.1:9599"
    assert options.ray == RayOptions("10.0.0.1:6379", 0.5, 0.5, 4)
    assert log_options(read.values) == LogOptions(
        tmp_path / "log" / "server.log", "debug", True, 500_000, 2
    )


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("[queue]\nlimt = 3", "config_unknown", ["queue.limt", "queue.limit?"]),
        ("[server]\nkeep_days = 3", "config_unknown", ["server.keep_days", "storage.keep_days?"]),
        ("[servr]\nbind = ''", "config_unknown", ["[servr]", "[server]?"]),
        ("bind = 'x'", "config_unknown", ["[bind]"]),
        ("[queue]\nlimit = true", "config_wrong_type", ["queue.limit = True", "whole number"]),
        ("[queue]\nlimit = 1.5", "config_wrong_type", ["a whole number"]),
        ("[storage]\nkeep_days = '14'", "config_wrong_type", ["'14'", "a number", "14"]),
        ("[security]\ncurve = 1", "config_wrong_type", ["true or false"]),
        ("[media]\nroots = '/mnt'", "config_wrong_type", ["a list of texts"]),
        ("[media]\nprefixes = '/mnt'", "config_wrong_type", ["media.prefixes", "table"]),
        ("[media.prefixes]\nZ = 3", "config_wrong_type", ["media.prefixes"]),
        ("[media.prefixes_of]\nanna = 3", "config_wrong_type", ["media.prefixes_of"]),
        ("[queue]\nlimit = 0", "config_out_of_range", ["at least 1"]),
        ("[queue]\nmax_priority = 49", "config_out_of_range", ["at least 50"]),
        ("[storage]\nkeep_days = -1", "config_out_of_range", ["at least 0"]),
        ("[storage]\nkeep_days = inf", "config_out_of_range", ["keep_days"]),
        ("[storage]\nkeep_days = nan", "config_out_of_range", ["keep_days"]),
        ("[log]\nlevel = 'loud'", "config_out_of_range", ["debug, info, warning, error"]),
        ("[server]\nexecutor = 'slurm'", "config_out_of_range", ["local, ray"]),
        ("[ray]\ngpus = 'all'\n[server]\nexecutor='ray'", "config_out_of_range", ["ray.gpus"]),
        ("[queue\nlimit = 0", "config_malformed", ["server.toml", "line 1"]),
        ("\0", "config_malformed", []),
    ],
)
def test_mistakes_are_named(config, text, code, words):
    path = config(text)
    with pytest.raises(MegasamError) as caught:
        server_options(read_config(path))
    assert caught.value.code == code
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(MegasamError) as caught:
        read_config(tmp_path / "none.toml")
    assert caught.value.code == "config_unreadable" and "--print-config" in caught.value.hint
