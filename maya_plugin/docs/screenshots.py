"""Make the pictures of the dialog in this folder again, from the real dialog and a real server.

    QT_QPA_PLATFORM=offscreen python maya_plugin/docs/screenshots.py [FOLDER]

Six states, light and dark, at 1x and 2x, each 900 x 700. The solve behind them is the job function
of the dialog's tests, so that the pictures do not depend on a solver.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parents[1]
SCALES = (1, 2)
JOB_FUNCTION = "tests.maya.ui.job_functions:run_job"


def main() -> None:
    """One process for each palette and scale: Qt decides both when it starts."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    folder.mkdir(parents=True, exist_ok=True)
    for palette in ("light", "dark"):
        for scale in SCALES:
            command = [sys.executable, __file__, "--one", palette, str(scale), str(folder)]
            with tempfile.TemporaryDirectory(prefix="megasam-docs-") as work:
                variables = os.environ | {
                    "QT_QPA_PLATFORM": "offscreen",
                    "QT_SCALE_FACTOR": str(scale),
                    "MEGASAM_CONFIG_DIR": str(Path(work) / "config"),
                    "PYTHONPATH": str(REPOSITORY),
                    "MEGASAM_DOCS_WORK": work,
                }
                subprocess.run(command, check=True, env=variables)


def one(palette: str, scale: str, folder: Path) -> None:
    from megasam_maya.ui.dialog import SolveDialog
    from megasam_maya.ui.theme import use_palette
    from PIL import Image
    from PySide6.QtWidgets import QApplication

    from tests.server.service.serving import Serving

    application = QApplication(sys.argv[:1])
    use_palette(application, palette == "dark")
    work = Path(os.environ["MEGASAM_DOCS_WORK"])

    def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("the dialog did not get where the picture is taken")
            application.processEvents()
            time.sleep(0.01)
        application.processEvents()

    def take(state: str) -> None:
        application.processEvents()
        suffix = "" if scale == "1" else f"@{scale}x"
        file = folder / f"dialog_{state}_{palette}{suffix}.png"
        dialog.grab().save(str(file))
        # 256 colours are enough, and a third of the size; the rare ones must be among them.
        with Image.open(file) as picture:
            small = picture.convert("RGB").quantize(
                256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
        small.save(file, optimize=True)

    with Serving(work / "state", job_function=JOB_FUNCTION) as server:
        dialog = SolveDialog(_SceneOfThePictures(), server=server.address)
        dialog.resize(900, 700)
        dialog.show()
        wait(lambda: dialog.server.details.text())
        # The address of the picture is the usual one, whatever port was free.
        dialog.server.address.setEditText("tcp://127.0.0.1:5599")
        take("empty")
        for state in ("good", "check", "failing"):
            plate = _plate(work, state)
            dialog.plate.picker.set_path(plate)
            wait(lambda p=plate: dialog.plate.plate and dialog.plate.plate.path == p)
            dialog.plate.picker.edit.setText("/plates/sh010/sh010.1001.png")
            if state == "good":
                take("plate")
            dialog.result.clear("")
            dialog.solve()
            if state == "good":
                wait(lambda: dialog.progress.bars["flow"].value() > 300)
                take("solving")
            if state == "failing":
                wait(dialog.message.isVisible)
                take("error")
            else:
                wait(lambda: dialog.result.quality)
                take(state)
        session = dialog.session
        dialog.close()
        wait(lambda: not session.alive)


class _SceneOfThePictures:
    """A host that is only looked at: the pictures show the dialog as it is in Maya."""


def _plate(work: Path, state: str) -> Path:
    """A sequence of 1920 x 1080 with two frames missing; its first file gives orders."""
    folder = work / state / "sh010"
    folder.mkdir(parents=True)
    orders = {
        "good": "frames=120 pause=0.01 verdict=good",
        "check": "frames=120 verdict=check",
        "failing": "frames=5 fail=yes",
    }[state]
    for frame in range(1001, 1121):
        if frame not in (1034, 1035):
            text = orders if frame == 1001 else str(frame)
            (folder / f"sh010.{frame}.png").write_bytes(_png_header() + text.encode() + b"\0")
    return folder


def _png_header() -> bytes:
    """As much of a PNG of 1920 x 1080 as the dialog reads."""
    size = (1920).to_bytes(4, "big") + (1080).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + size + b"\x08\x02\0\0\0\0\0\0\0"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        main()
