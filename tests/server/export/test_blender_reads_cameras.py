"""Blender, which shares no code with us, imports our cameras and sees the points in place."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from megasam_server.export.alembic_scene import write_alembic
from megasam_server.export.fbx_ascii import write_fbx_ascii
from megasam_server.export.scene import CM_PER_UNIT, Scene, scene_from_shot
from megasam_server.export.usd_scene import write_usd

from tests.server.export.conftest import HEIGHT, WIDTH, make_shot

TOLERANCE_PX = 0.01
NTSC_FILM = 24000 / 1001
HOW_TO_GET_BLENDER = (
    "Blender's Python is not here. Make it with "
    "`python3.11 -m venv X; X/bin/pip install bpy==4.5.15 'numpy<2'` "
    "and set MEGASAM_BLENDER_PYTHON to X/bin/python (X\\Scripts\\python.exe on Windows)."
)


def blender_python() -> str:
    """Interpreter that can import bpy; skips the test when there is none."""
    named = os.environ.get("MEGASAM_BLENDER_PYTHON")
    if named:
        return named
    if importlib.util.find_spec("bpy"):
        return sys.executable
    pytest.skip(HOW_TO_GET_BLENDER)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file_name", "write", "points_of", "zoom", "fps", "blender_fps"),
    [
        ("camera.usda", write_usd, "points", True, NTSC_FILM, NTSC_FILM),
        ("camera.fbx", write_fbx_ascii, "locators", True, 25.0, 25.0),
        # Blender takes FBX's mode for 24000/1001 as 23.976 sharp: keys come in 0.001 frame early.
        ("camera.fbx", write_fbx_ascii, "locators", True, NTSC_FILM, 23.976),
        # Blender reads the lens of an Alembic camera once, at import: no zoom to be tested with it.
        ("camera.abc", write_alembic, "points", False, NTSC_FILM, NTSC_FILM),
    ],
)
def test_blender_sees_the_points_where_the_solve_did(
    tmp_path: Path,
    record_property: Callable,
    file_name: str,
    write: Callable[[Path, Scene], None],
    points_of: str,
    zoom: bool,
    fps: float,
    blender_fps: float,
) -> None:
    shot = make_shot(tmp_path, zoom=zoom, fps=fps)
    scene = scene_from_shot(shot)
    write(tmp_path / file_name, scene)
    request = {
        "width": WIDTH,
        "height": HEIGHT,
        "fps": round(fps),
        "fps_base": round(fps) / fps,
        "frames": [number * blender_fps / fps for number in shot.plate.frame_numbers],
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    script = Path(__file__).with_name("blender_reprojection.py")
    arguments = [tmp_path / file_name, tmp_path / "request.json", tmp_path / "answer.json"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [blender_python(), str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads((tmp_path / "answer.json").read_text())

    points = getattr(scene, points_of) / (CM_PER_UNIT, -CM_PER_UNIT, -CM_PER_UNIT)
    assert len(points) >= 300
    worst = 0.0
    for index, pixels in enumerate(answer["pixels"]):
        expected, _ = shot.cameras.project(points, np.full(len(points), index))
        worst = max(worst, float(np.abs(np.array(pixels) - (expected + 0.5)).max()))
    print(f"Blender {answer['blender']}, {file_name}, {fps:.3f} fps: {worst:.6f} px at most")
    record_property("worst_px", worst)
    assert worst < TOLERANCE_PX
