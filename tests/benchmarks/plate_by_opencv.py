"""Jobs in this process where the libraries for media files are missing (PyAV, OpenImageIO, USD ...).

The plate is a folder of pictures, which OpenCV decodes straight to the frame store; no results are
written. OpenCV also tells which matches of features fit one motion of the camera, where pycolmap is missing.
All else is the product's own :func:`megasam_server.pipeline.run.run_job`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import cv2

_STAND_INS = str(Path(__file__).parent / "stand_ins")
FIRST_FRAME = 1001
FPS = 24.0
# What modules of the solver import, and what a solve of frames that are there does not use.
_MEDIA = (
    *("av", "OpenImageIO", "pycolmap"),
    *("pxr", "pxr.Usd", "alembic3d", "alembic3d.AbcGeom", "imath"),
)


def stand_in_for_media() -> list[str]:
    """Make what is missing importable, before anything of the solver is imported.

    Returns:
        what was missing.
    """
    missing = [name for name in _MEDIA if not _is_installed(name)]
    for name in missing:
        if name != "pycolmap":
            sys.modules[name] = MagicMock()  # enough to be imported
    if "pycolmap" in missing:
        # Also in the process beside the networks.
        sys.path.insert(0, _STAND_INS)
        already = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join([_STAND_INS, *filter(None, already)])
    return missing


def read_with_opencv(deliver: Callable[[Any], None] | None = None) -> None:
    """Let jobs of this process read their plates with OpenCV, and write nothing.

    Args:
        deliver: is given the :class:`~megasam_server.pipeline.solved_shot.SolvedShot` of each job
            while its files are there.
    """
    from megasam_server.pipeline import run

    def not_written(_folder, shot, *_) -> dict:
        if deliver is not None:
            deliver(shot)
        return {}

    run.plate_of, run.read_footage, run.write_results = read_plate, read_footage, not_written


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def read_plate(job):
    """What the engine is told of the plate."""
    from megasam_server.media.plate import PlateInfo

    files = sorted(job.plate.iterdir())
    height, width = cv2.imread(str(files[0])).shape[:2]
    numbers = [FIRST_FRAME + k for k in range(len(files))]
    times = [k / FPS for k in range(len(files))]
    info = PlateInfo(job.plate.name, "sequence", width, height, FPS, numbers, times, [], [])
    return SimpleNamespace(info=info)


def read_footage(plate, job, _cache=None, _progress=None):
    """The decoded plate."""
    from megasam_server.media.decode import solver_size
    from megasam_server.media.frame_store import FrameStore, write_frame_store
    from megasam_server.pipeline.footage import Footage, frame_store_long_side

    info = plate.info
    size = solver_size(info.width, info.height, frame_store_long_side(job.settings))
    store = FrameStore(job.work_dir / "frames.rgb", info.num_frames, *size, 3)
    pictures = (cv2.imread(str(file))[..., ::-1] for file in sorted(job.plate.iterdir()))
    write_frame_store(
        store, (cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures)
    )
    return Footage(info, store, None, str(job.plate))
