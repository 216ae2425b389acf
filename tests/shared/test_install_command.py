"""The command that messages tell people to type is one that works."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from megasam_shared.install_command import install_command


def test_the_command_names_this_python_and_where_the_project_came_from(monkeypatch, tmp_path):
    class Recorded:
        def read_text(self, name):
            assert name == "direct_url.json"
            return json.dumps({"url": (tmp_path / "a b").as_uri(), "dir_info": {"editable": True}})

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Recorded())
    words = shlex.split(install_command("networks", "window"))
    assert words == [
        *(sys.executable, "-m", "pip", "install", "--editable"),
        f"{tmp_path / 'a b'}[networks,window]",
    ]


@pytest.mark.parametrize("recorded", [None, '{"url": "https://example.org/x.whl"}'])
def test_from_an_index_it_is_the_name(monkeypatch, recorded):
    class Recorded:
        def read_text(self, name):
            return recorded

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Recorded())
    assert shlex.split(install_command("ray"))[-1] == "megasam-maya[ray]"


def test_pip_finds_the_project_that_it_names():
    command = [*shlex.split(install_command("window")), "--dry-run", "--no-deps", "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # Without an index it ends for want of the build backend, after it has found the checkout.
    assert f"Obtaining {Path(__file__).parents[2].as_uri()}" in done.stdout, done.stderr
