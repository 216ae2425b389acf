"""``python3 -m solver_server``: makes, keeps and repairs its environment; passes commands through.

A tiny project stands in for ours (its build backend is in the checkout, so nothing is downloaded);
the bootstrap, the environment, pip and the processes are real.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).parents[2] / "solver_server" / "__main__.py"

PYPROJECT = """
[build-system]
requires = [{requires}]
build-backend = "backend"
backend-path = ["."]
"""

BACKEND = """
import base64, hashlib, zipfile
from pathlib import Path

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    info = "megasam_maya-1.dist-info"
    files = {
        "megasam.pth": str(Path("solver_server").absolute()),
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: megasam-maya\\nVersion: 1\\n"
        "Provides-Extra: server\\nProvides-Extra: test\\n"
        "Provides-Extra: networks\\nProvides-Extra: training\\nProvides-Extra: window\\nRequires-Dist: pip\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        f"{info}/entry_points.txt": "[console_scripts]\\nmegasam = megasam_server.cli:main\\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\\n" for name in [*files, f"{info}/RECORD"])
    name = "megasam_maya-1-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
"""

CLI = """
import json, os, sys, time

def main():
    path = os.environ.get("PYTHONPATH")
    print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "path": path}))
    sys.stdout.flush()
    if sys.argv[1] == "wait":
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            return 42
    return 7
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A checkout whose first command has run; its folder name holds a space."""
    checkout = make_checkout(tmp_path_factory.mktemp("bootstrap") / "my checkout")
    first = run(checkout, "solve", "my plate.mp4", "--frames", "1-5")
    assert first.returncode == 7, first.stderr
    assert json.loads(first.stdout)["argv"] == ["solve", "my plate.mp4", "--frames", "1-5"]
    assert "Environment ready" in first.stderr
    return checkout


def make_checkout(root: Path, requires: str = "") -> Path:
    server = root / "solver_server" / "megasam_server"
    server.mkdir(parents=True)
    shutil.copy(BOOTSTRAP, root / "solver_server")
    (root / "pyproject.toml").write_text(PYPROJECT.format(requires=requires))
    (root / "backend.py").write_text(BACKEND)
    (server / "__init__.py").write_text("")
    (server / "cli.py").write_text(CLI)
    return root


def bare_environment(**more: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "VIRTUAL_ENV"))}
    return env | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull} | more


def run(checkout: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "solver_server", *arguments],
        cwd=checkout,
        env=bare_environment(**env),
        capture_output=True,
        text=True,
        timeout=120,
    )


def stamp(checkout: Path) -> Path:
    return checkout / ".venv" / "megasam-setup.json"


def test_a_good_environment_is_kept_and_foreign_python_paths_do_not_reach_it(installed):
    before = stamp(installed).stat().st_mtime_ns
    again = run(installed, "doctor", PYTHONPATH="/somewhere/else")
    assert again.returncode == 7
    assert again.stderr == ""
    assert json.loads(again.stdout)["path"] is None
    assert stamp(installed).stat().st_mtime_ns == before


def test_a_changed_pyproject_updates_the_environment_in_place(installed):
    keep = installed / ".venv" / "kept.txt"
    keep.write_text("still here")
    with (installed / "pyproject.toml").open("a") as file:
        file.write("# newer\n")
    again = run(installed, "doctor")
    assert again.returncode == 7
    assert "pyproject.toml has changed" in again.stderr
    assert keep.exists()
    assert run(installed, "doctor").stderr == ""


def test_the_tests_install_the_networks_and_later_commands_keep_them(installed):
    assert json.loads(stamp(installed).read_text())["extras"] == ["server", "test"]
    first = run(installed, "test", "--version")
    assert "several GB" in first.stderr
    extras = json.loads(stamp(installed).read_text())["extras"]
    assert extras == ["networks", "server", "test", "training", "window"]
    assert run(installed, "doctor").stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is a console event on Windows")
def test_ctrl_c_reaches_the_command_and_its_exit_code_comes_back(installed):
    command = [sys.executable, "-m", "solver_server", "wait"]
    with subprocess.Popen(
        command, cwd=installed, env=bare_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().startswith("{")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 42


@pytest.mark.slow
def test_two_commands_at_once_make_one_environment_after_an_interrupted_installation(tmp_path):
    checkout = make_checkout(tmp_path / "checkout")
    stamp(checkout).parent.mkdir()
    stamp(checkout).write_text('"installing"')
    (checkout / ".venv" / "left over").touch()
    command = [sys.executable, "-m", "solver_server", "doctor"]
    both = [
        subprocess.Popen(command, cwd=checkout, env=bare_environment(), stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1].decode() for process in both]
    assert [process.returncode for process in both] == [7, 7]
    assert sorted("Environment ready" in text for text in said) == [False, True]
    assert sorted("waiting for it" in text for text in said) == [False, True]
    assert not (checkout / ".venv" / "left over").exists()


@pytest.mark.parametrize(
    "damage", [pytest.param("python gone", marks=pytest.mark.slow), "package file gone"]
)
def test_a_broken_environment_is_made_again(installed, damage):
    venv = installed / ".venv"
    left_over = venv / "left over"
    left_over.write_text("from the broken one")
    if damage == "python gone":
        shutil.rmtree(venv / ("Scripts" if os.name == "nt" else "bin"))
    else:
        next(venv.rglob("pip/_internal/exceptions.py")).unlink()
    repaired = run(installed, "doctor")
    assert repaired.returncode == 7, repaired.stderr
    assert not left_over.exists()
    assert run(installed, "doctor").stderr == ""


def test_a_failed_installation_says_why_and_is_not_taken_for_a_good_one(tmp_path):
    checkout = make_checkout(tmp_path / "checkout", requires='"no-such-build-tool==99"')
    failed = run(checkout, "demo")
    assert failed.returncode == 1
    assert "no-such-build-tool" in failed.stderr
    assert "Python 3.11 to 3.13" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert json.loads(stamp(checkout).read_text()) == "installing"


def test_a_folder_that_cannot_hold_the_environment_is_named(tmp_path):
    checkout = make_checkout(tmp_path / "checkout")
    blocked = tmp_path / "a file"
    blocked.write_text("")
    failed = run(checkout, "demo", MEGASAM_VENV=str(blocked / "venv"))
    assert failed.returncode == 1
    assert str(blocked) in failed.stderr
    assert "MEGASAM_VENV" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_python_without_ensurepip_is_told_which_package_to_install(tmp_path):
    checkout = make_checkout(tmp_path / "checkout")
    # What Debian ships without python3-venv: the import system finds no ensurepip.
    code = (
        "import importlib.util, runpy; real = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda n, *a: None if n == 'ensurepip' else real(n, *a);"
        "runpy.run_module('solver_server', run_name='__main__')"
    )
    failed = subprocess.run(
        [sys.executable, "-c", code, "demo"],
        cwd=checkout,
        env=bare_environment(),
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 1
    assert f"python3.{sys.version_info.minor}-venv" in failed.stderr
    assert not (checkout / ".venv").exists()


def test_without_a_command_it_explains_itself_and_installs_nothing(tmp_path):
    checkout = make_checkout(tmp_path / "checkout")
    usage = run(checkout)
    assert usage.returncode == 2
    assert "demo" in usage.stdout
    assert not (checkout / ".venv").exists()


@pytest.mark.skipif(os.name == "nt", reason="stands in for a Windows console with a process group")
def test_where_there_is_no_exec_the_parent_waits_and_ctrl_c_is_left_to_the_command():
    code = f"""
import runpy, sys
bootstrap = runpy.run_path({str(BOOTSTRAP)!r})
hand_over = bootstrap["hand_over"]
hand_over.__globals__["WINDOWS"] = True
child = "import sys; sys.argv[1] = 'wait'; exec(open(sys.argv[2]).read()); sys.exit(main())"
sys.exit(hand_over([sys.executable, "-c", child, "", sys.argv[1]]))
"""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as cli:
        cli.write(CLI)
        cli.flush()
        command = [sys.executable, "-c", code, cli.name]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert process.stdout.readline().startswith("{")
            time.sleep(0.2)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(timeout=20) == 42
