"""``megasam window``: the dialog as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from megasam_shared.install_command import install_command

from tests.server.service.serving import Serving, wait_for


@pytest.mark.parametrize("option", [pytest.param("--server", marks=pytest.mark.slow), "--private"])
def test_window_connects_and_ends_in_good_order_on_ctrl_c(tmp_path, option):
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "MEGASAM_JOB_FUNCTION": "tests.maya.ui.job_functions:run_job",
    }
    command = [sys.executable, "-c", "from megasam_server.cli import main; main()", "window"]
    with Serving(tmp_path / "state") as server:
        command += [option, server.address] if option == "--server" else [option]
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        # The address is remembered when the window closes, and only when it answered.
        kept = tmp_path / "config" / "dialog.json"
        wait_for(lambda: has_qt(process.pid), timeout=60)
        time.sleep(3)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 0
    wait_for(kept.exists)
    if option == "--server":
        assert server.address in kept.read_text()


def has_qt(pid: int) -> bool:
    """A process below this one has loaded Qt, and ours is about to be shown."""
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            is_window = "megasam_maya.ui.window" in child.cmdline()
            if is_window and any("Qt6Widgets" in m.path for m in child.memory_maps()):
                return True
    return False


def test_without_qt_the_command_says_what_to_install(tmp_path):
    program = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'PySide6' else find(name, *a)\n"
        "from megasam_server.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "window"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    # The terminal may have broken the line anywhere.
    assert "".join(install_command("window").split()) in "".join(done.stderr.split())


def test_without_a_system_library_the_command_names_it(tmp_path):
    broken = tmp_path / "broken" / "PySide6"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libEGL.so.1: cannot open')")
    environment = os.environ | {"PYTHONPATH": str(broken.parent)}
    command = [sys.executable, "-c", "from megasam_server.cli import main; main()", "window"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2
    assert "libEGL.so.1" in done.stderr and "apt-get install" in done.stderr
