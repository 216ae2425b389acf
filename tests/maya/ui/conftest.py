"""The real dialog against real servers; skipped where Qt cannot run.

pytest-qt as a plug-in fails the whole run where PySide6 or a system library of Qt is missing, so
pyproject.toml keeps it from loading itself, and only its ``qtbot`` is taken from here.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.service.serving import Serving

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
try:
    import pytestqt.qt_compat
    from PySide6.QtCore import QEvent, QEventLoop
    from PySide6.QtWidgets import QApplication

    pytestqt.qt_compat.qt_api.set_qt_api("pyside6")
    from pytestqt.plugin import qtbot  # noqa: F401
except ImportError as error:
    # PySide6 and pytest-qt come with the extras window and test; libEGL, libGL and xkbcommon with
    # the system.
    REASON = f"the dialog's tests need PySide6, pytest-qt and Qt's system libraries: {error}"
else:
    REASON = ""

REPOSITORY = Path(__file__).parents[3]
JOB_FUNCTION = "tests.maya.ui.job_functions:run_job"


class _SkippedModule(pytest.Module):
    """A test file that is not even imported."""

    def collect(self):
        raise pytest.skip.Exception(REASON, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent) -> pytest.Module | None:
    return _SkippedModule.from_parent(parent, path=module_path) if REASON else None


@pytest.fixture(scope="session")
def qapp():
    return QApplication.instance() or QApplication(["tests"])


@pytest.fixture(autouse=True)
def no_error_in_a_slot() -> Iterator[None]:
    """PySide prints what a slot raises and goes on; here the test fails."""
    seen: list[BaseException] = []
    before = sys.excepthook
    sys.excepthook = lambda kind, error, trace: (seen.append(error), before(kind, error, trace))
    yield
    sys.excepthook = before
    assert seen == []


@pytest.fixture(autouse=True)
def own_config(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEGASAM_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return tmp_path / "config"


@pytest.fixture
def server(tmp_path) -> Iterator[Serving]:
    with Serving(tmp_path / "state", job_function=JOB_FUNCTION) as running:
        yield running


@pytest.fixture
def make_plate(tmp_path) -> Callable[..., Path]:
    """A folder with a sequence whose first file tells the job function what to do."""

    def make(orders: str = "frames=10", frames: int = 5, name: str = "sh010") -> Path:
        folder = tmp_path / f"plate_{name}"
        folder.mkdir()
        for index in range(frames):
            text = f"{orders if index == 0 else index}\0".encode()
            (folder / f"{name}.{1001 + index}.png").write_bytes(text.ljust(200, b"."))
        return folder

    return make


@pytest.fixture
def open_dialog(qapp, tmp_path):
    """Make dialogs; those still open at the end are closed, and their threads must end."""
    from megasam_maya.ui.dialog import SolveDialog

    made = []

    def make(server: str, host=None) -> SolveDialog:
        dialog = SolveDialog(host, server=server)
        made.append((dialog, dialog.session))
        dialog.show()
        return dialog

    yield make
    import shiboken6

    for dialog, session in made:
        if shiboken6.isValid(dialog):
            dialog.close()
        session.stop(5)
    delete_now(qapp)
    deadline = time.monotonic() + 10
    while own_threads() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert own_threads() == []


def own_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("megasam")]


def delete_now(qapp) -> None:
    """Let Qt delete what waits to be deleted."""
    qapp.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    qapp.processEvents(QEventLoop.ProcessEventsFlag.AllEvents)
