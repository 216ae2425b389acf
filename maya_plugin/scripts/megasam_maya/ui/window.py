"""The dialog as a window of its own: ``python -m megasam_maya.ui.window``, or ``megasam window``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

from megasam_maya.ui.dialog import SolveDialog
from megasam_maya.ui.theme import use_palette


def main(arguments: list[str] | None = None) -> int:
    """Show the dialog until it is closed; the exit code."""
    parser = argparse.ArgumentParser(prog="megasam window", description=__doc__)
    parser.add_argument("plate", nargs="?", help="movie, folder, frame or pattern")
    parser.add_argument("--server", default="", help="address of a solver server")
    parser.add_argument("--result", type=Path, help="folder of a solve to show")
    parser.add_argument("--hash-cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--palette", choices=["light", "dark"], default="dark")
    options = parser.parse_args(arguments)
    application = QApplication.instance() or QApplication(sys.argv[:1])
    use_palette(application, options.palette == "dark")
    dialog = SolveDialog(server=options.server, hash_cache=options.hash_cache)
    if options.plate:
        dialog.plate.picker.set_path(options.plate)
    if options.result:
        dialog.load_folder(options.result)
    # Python sees Ctrl-C only between its own steps: the timer makes some.
    signal.signal(signal.SIGINT, lambda *_: dialog.close())
    awake = QTimer(application, interval=200)
    awake.timeout.connect(lambda: None)
    awake.start()
    session = dialog.session
    dialog.show()
    code = application.exec()
    awake.stop()
    _finish(session)
    return code


def _finish(session) -> None:
    """Let an upload end that the artist has started: without it there is no job."""
    try:
        while session.alive:
            session.join(0.2)
    except KeyboardInterrupt:
        session.stop()


if __name__ == "__main__":
    sys.exit(main())
