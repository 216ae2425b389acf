"""What tests of the whole program share: a rendered clip, and ``megasam`` as a process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from megasam_server.media.movie_writer import write_movie
from megasam_server.raycast import sets
from megasam_server.raycast.camera_paths import aim, handheld
from megasam_server.raycast.clip import Take
from megasam_server.raycast.render import Camera, Film


@dataclass(frozen=True)
class RoomClip:
    """A short walk through a furnished room.

    Attributes:
        movie: the clip as mp4.
        rgb: the same frames before encoding, uint8 [N,H,W,3].
        take: with the exact cameras.
    """

    movie: Path
    rgb: np.ndarray
    take: Take


@pytest.fixture(scope="session")
def room_clip(tmp_path_factory) -> RoomClip:
    def walk(time: float) -> np.ndarray:
        return aim(np.array([0.2 + 0.6 * time, -1.35, -4.4 + 1.4 * time]), -1.5 + 4 * time, -2.0)

    move = handheld(walk, 11, 0.0015, 0.03)
    scene = sets.furnished_room(3, width=4.2, depth=12.0, furniture=5)
    camera = Camera(480, 270, move, lambda time: 430.0)
    take = Take("room", scene, camera, Film(samples=2), 24, 24.0, seed=1)
    rgb = np.stack([frame.rgb for frame in take.frames()])
    movie = tmp_path_factory.mktemp("room") / "room.mp4"
    write_movie(movie, rgb, take.fps)
    return RoomClip(movie, rgb, take)


@pytest.fixture
def mount_disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """A file system of its own of so many MiB."""
    folder = tmp_path / "small disk"
    mounted = False

    def mount(mebibytes: int) -> Path:
        nonlocal mounted
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
        with contextlib.suppress(OSError):
            mounted = subprocess.run(command, capture_output=True).returncode == 0
        if not mounted:
            pytest.skip("a small disk can only be mounted on Linux, as root")
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@dataclass(frozen=True)
class Ended:
    """How a ``megasam`` process ended."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict]:
        """What ``--json`` printed."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def megasam(tmp_path) -> Callable[..., Ended]:
    """Run a ``megasam`` command with caches and temporary files below ``tmp_path``.

    The fixture fails a test whose command left something in the folder for temporary files.
    """
    temporary = tmp_path / "temporary files"
    temporary.mkdir()

    def run(*arguments: object, timeout: float = 240, tmpdir: Path | None = None, **popen) -> Ended:
        env = os.environ | {
            "TMPDIR": str(tmpdir or temporary),
            "TEMP": str(tmpdir or temporary),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "COLUMNS": "200",
        }
        program = shutil.which("megasam", path=str(Path(sys.executable).parent))
        command = [program, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=env, **popen
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    yield run
    assert [path.name for path in temporary.iterdir()] == []
